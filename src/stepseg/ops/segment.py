"""Ranks and products per image (or per image and class), without loops on the device.

Letters: T packed rows, B images, D channels, C columns.
"""

import torch
from torch import Tensor

from stepseg.packed import Segments


def rank_in_group(scores_T: Tensor, group_T: Tensor, num_groups: int) -> Tensor:
    """Rank of every row within its group, 0 for the highest score; ties go to the earlier row.

    Args:
        scores_T: any ordered dtype.
        group_T: int64 in ``[0, num_groups)``.
        num_groups: number of groups; empty groups are legal.

    Returns:
        int64 ``[T]``.

    """
    by_score = torch.argsort(scores_T, descending=True, stable=True)
    order = by_score[torch.argsort(group_T[by_score], stable=True)]
    sorted_group = group_T[order]
    groups = torch.arange(num_groups, device=group_T.device)
    start_of_group = torch.searchsorted(sorted_group, groups)
    position = torch.arange(len(order), device=group_T.device)
    rank_sorted = position - start_of_group[sorted_group]
    return torch.empty_like(rank_sorted).scatter_(0, order, rank_sorted)


def count_per_image(mask_T: Tensor, segments: Segments) -> Tensor:
    """How many rows of each image the boolean mask selects, int64 ``[B]``."""
    before = torch.nn.functional.pad(mask_T.cumsum(0), (1, 0))
    return before[segments.cu_seqlens.long()].diff()


def position_in_image(segments: Segments, image_ids_T: Tensor) -> Tensor:
    """Index of every row within its image, int64 ``[T]``."""
    rows = torch.arange(len(image_ids_T), device=image_ids_T.device)
    return rows - segments.cu_seqlens.long()[image_ids_T]


def segment_scores(k_TD: Tensor, q_QD: Tensor, segments: Segments) -> Tensor:
    """Compare the rows of every image with its own queries, of which all images have as many.

    Args:
        k_TD: rows, packed as `segments` say.
        q_QD: packed queries, C of each image.
        segments: of the rows.

    Returns:
        Products ``[T, C]``.

    """
    query_BDC = q_QD.unflatten(0, (segments.num_images, -1)).transpose(1, 2)
    if segments.num_images == 1:
        return k_TD @ query_BDC[0]
    if segments.is_uniform:
        return torch.bmm(k_TD.unflatten(0, (segments.num_images, -1)), query_BDC).flatten(0, 1)
    if not k_TD.is_cuda:
        pieces = zip(k_TD.split(segments.lengths), query_BDC, strict=True)
        return torch.cat([rows @ query for rows, query in pieces])
    # One batched product over the rows laid out with padding; the padding is dropped again.
    image_ids = segments.image_ids()
    position = position_in_image(segments, image_ids)
    padded = k_TD.new_zeros(segments.num_images, max(segments.max_length, 1), k_TD.shape[1])
    padded = padded.index_put((image_ids, position), k_TD)
    return torch.bmm(padded, query_BDC)[image_ids, position]
