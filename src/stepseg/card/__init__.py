"""The card of a trained model: one page of Markdown with its figures and pictures."""
