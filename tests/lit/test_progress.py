"""Progress in a log file: plain lines, no control characters."""

import lightning as L
import torch
from torch.utils.data import DataLoader

from stepseg.lit.callbacks.progress import LineProgress


class Toy(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_index):
        loss = self.layer(batch).mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_index):
        self.log("val/mIoU", torch.tensor(41.0))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_lines(capsys, tmp_path):
    loader = DataLoader(torch.ones(20, 1), batch_size=2)
    trainer = L.Trainer(
        accelerator="cpu", max_steps=5, val_check_interval=5, callbacks=[LineProgress(2)],
        logger=False, enable_checkpointing=False, enable_model_summary=False,
        num_sanity_val_steps=0, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Toy(), loader, loader)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step")]
    assert [line.split()[1] for line in lines] == ["2/5", "4/5", "5/5", "5/5"]
    assert sum("mIoU 41.00" in line for line in lines) == 1
    assert all(line.isprintable() for line in lines)
