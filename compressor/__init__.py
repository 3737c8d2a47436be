"""Networks, teachers, runtimes, data and training: everything that recipes, export and the demo stand on."""
