"""What the state of a fit's checkpoint has beside the tensors."""

KEPT = {"epoch": 1, "global_step": 7, "pytorch-lightning_version": "2.6.0", "base": {"fingerprint": "f"}}
