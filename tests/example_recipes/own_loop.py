"""A loop of one's own: half the teacher's width, trained by the labels and by the teacher's edges."""

from pathlib import Path

import torch
from mine import edges

import srkd
from srkd.training import Batches, DataChoice, Losses, Runner, Step, StepNetworks, Validation, prepare_data, save

teacher = srkd.load("teacher.pt").eval().requires_grad_(False)
student = srkd.build_student(teacher, width=0.5).train()
data = prepare_data(DataChoice(Path("photos")), scale=teacher.spec.scale, lr_patch=24)
batches = Batches.for_store(data.train, batch=8, lr_patch=24, seed=1)
networks = StepNetworks([Runner(student, trains=True)], Runner(teacher, trains=False))
validation = Validation(data.validation, teacher.spec.scale)
optimiser = torch.optim.Adam(student.parameters(), lr=5e-4)
print(f"{validation.score(student).psnr_y:.2f} dB before the first step")
for number in range(200):
    step = Step(number, 1, batches.at(number), networks)
    sr, target = step.student().sr, step.teacher().sr
    terms = {"pixel": (sr - step.hr).abs().mean(), "edges": (edges(sr) - edges(target)).abs().mean()}
    optimiser.zero_grad()
    Losses(terms, {"pixel": 1.0, "edges": 0.1}).total.backward()
    optimiser.step()
print(f"{validation.score(student).psnr_y:.2f} dB after the last")
save(student, "student.safetensors")
