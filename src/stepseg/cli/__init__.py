"""The commands: the only place that knows Hydra. Nothing else imports from here."""
