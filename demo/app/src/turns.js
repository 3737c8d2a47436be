// Networks take turns in alternating order, because a phone slows down as it gets warm.

import { Cancelled } from "./engine.js";
import { ENGINES } from "./runtime.js";

/**
 * Run each row { model, engine (of ENGINES; null: any) } once in each round, every second round backwards. `use(engine)`
 * switches, `once(row)` opens the model and resolves to what it found, with the `engine` that ran. Every row gets `found`, a
 * list with one entry a round, and `failed`: why it does not run, or null. A row that is `enough(row)` takes no further turns.
 * `onTurn(row, round, left)` comes before each turn; after it `left` more are to come, as far as is known.
 */
export async function inTurns(rows, rounds, { use, once, onTurn = () => {}, enough = () => false }) {
  for (const row of rows) Object.assign(row, { found: [], failed: null });
  let used = null;
  const takesPart = (row) => !row.failed && !enough(row);
  for (let round = 0; round < rounds; round++) {
    const order = round % 2 ? [...rows].reverse() : rows;
    for (const [i, row] of order.entries()) {
      if (!takesPart(row)) continue;
      if (row.engine && used !== row.engine) await use(row.engine);
      const later = (rounds - round - 1) * rows.filter(takesPart).length;
      onTurn(row, round, later + order.slice(i + 1).filter(takesPart).length);
      used = null;
      try {
        const found = await once(row);
        used = found.engine;
        if (row.engine && used !== row.engine) throw new Error(`${ENGINES[row.engine]} cannot run it`);
        row.found.push(found);
      } catch (error) {
        if (error instanceof Cancelled) throw error;
        row.failed = error.message;
      }
    }
  }
  return rows;
}
