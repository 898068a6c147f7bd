"""Cropr's scorer: how useful a token is to queries that learn to read the image.

arXiv 2412.00965, Sec. 3. Learned queries look at the tokens; a token's score is the sum of its
products with all queries. So that queries learn what is useful, they are supervised in training:
cross-attention, an MLP and a linear layer tell from each query the classes in its part of the
image, a grid of `parts` x `parts`. No gradient reaches the tokens. At inference the sum over
queries is one vector, and nothing else of the scorer runs.

Letters: S scorers, B images, T packed tokens, D channels, Q queries, C classes, H x W pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepseg.losses import Count, divisor, mean_over_ranks, one_hot_masks
from stepseg.ops.attention import varlen_attention
from stepseg.packed import PackedTokens, Segments

PARTS = 8
"""Rows and columns of the parts of an image; queries are their square."""


class TokenScorer(nn.Module):
    """Scores tokens before one block."""

    def __init__(self, *, dim: int, num_classes: int, parts: int = PARTS) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.query_QD = nn.Parameter(torch.empty(parts**2, dim))
        self.mlp_norm = nn.LayerNorm(dim, eps=1e-6)
        self.fc1 = nn.Linear(dim, dim)
        self.fc2 = nn.Linear(dim, dim)
        self.classify = nn.Linear(dim, num_classes)
        nn.init.normal_(self.query_QD, std=dim**-0.5)

    @torch.no_grad()
    def forward(self, x_TD: Tensor) -> Tensor:
        """Scores ``[T]``; the constant factor of an attention's logits changes no order."""
        return (self.norm(x_TD) @ self.query_QD.mean(0)[:, None])[:, 0]

    def vote(self, tokens: PackedTokens) -> Tensor:
        """Class logits of every part of each image, ``[B, Q, C]``; tokens get no gradient."""
        images, queries = tokens.segments.num_images, len(self.query_QD)
        x_TND = self.norm(tokens.values_TD.detach())[:, None]
        query_RD = self.query_QD.repeat(images, 1)
        asking = Segments.from_lengths([queries] * images, x_TND.device)
        seen_RD = varlen_attention(query_RD[:, None], x_TND, x_TND, asking, tokens.segments)[:, 0]
        seen_RD = seen_RD + self.fc2(F.gelu(self.fc1(self.mlp_norm(seen_RD))))
        return self.classify(seen_RD).unflatten(0, (images, queries))


def scorer_loss(
    votes_SBQC: Tensor,
    labels_BHW: Tensor,
    ignore_index: int = 255,
    reduce_count: Count = mean_over_ranks,
) -> Tensor:
    """Cross-entropy with the shares of the classes in each part of the image; ignored parts drop.

    Every image weighs as many of its parts as have labels.

    Args:
        votes_SBQC: of every scorer on the same images.
        labels_BHW: int64 training ids.
        ignore_index: label without annotation.
        reduce_count: as in `stepseg.losses.head_loss`.

    """
    queries, classes = votes_SBQC.shape[2:]
    parts = round(queries**0.5)
    masks_BCHW = one_hot_masks(labels_BHW, classes, ignore_index)
    shares_BCQ = F.adaptive_avg_pool2d(masks_BCHW.float(), parts).flatten(2)
    target_BQC = shares_BCQ.transpose(1, 2)
    total_BQ = target_BQC.sum(2)
    target_BQC = target_BQC / total_BQ.clamp(min=1e-6)[..., None]
    cost_SBQ = -(target_BQC * votes_SBQC.float().log_softmax(3)).sum(3)
    annotated_BQ = (total_BQ > 0).float()
    return (cost_SBQ.mean(0) * annotated_BQ).sum() / divisor(reduce_count(annotated_BQ.sum()))
