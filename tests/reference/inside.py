"""ToMe, ALGM and Cropr inside the blocks of one image, in loops and float64.

From the descriptions of the papers. A token is its value and the cells that it stands for.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reference import vit
from stepseg.merging.rules import Algm, Cropr, ToMe


@dataclass
class Token:
    value_D: Tensor
    cells: list[int]
    """The first is the one that others became part of."""


def run(rule, x_TD, prefix_PD, weights: vit.Weights, heads: int, depth: int, columns: int, scorers):
    """All blocks; the tokens at the end, and how many there were in the MLP of each block.

    `prefix_PD`: rows that are no patches: they attend and are attended to, and nothing else.
    """
    first = [Token(value, [-1]) for value in prefix_PD]
    tokens = [Token(value, [cell]) for cell, value in enumerate(x_TD)]
    aside: list[Token] = []
    counts = []
    for number in range(1, depth + 1):
        if isinstance(rule, Cropr):
            if number == depth:
                tokens = sorted([*tokens, *aside], key=lambda token: token.cells[0])
            elif str(number) in scorers:
                tokens, left = _least_useful(rule, tokens, scorers[str(number)])
                aside += left
        block = vit.under(weights, f"blocks.{number - 1}")
        keys = _attention(rule, [*first, *tokens], block, heads)[len(first) :]
        if isinstance(rule, ToMe):
            gone = int(rule.r) if rule.r >= 1 else round(rule.r * len(tokens))
            gone = min(gone, len(tokens) // 2)
            pairs = _pairs(keys)
            pairs = sorted(pairs, key=lambda pair: (-pair[0], pair[1]))[:gone]
            tokens = _merge(tokens, {source: target for _, source, target in pairs})
        elif isinstance(rule, Algm) and number == rule.local_block:
            tokens = _merge(tokens, _alike_windows(rule, tokens, columns))
        elif isinstance(rule, Algm) and number == (rule.global_block or round(depth * 5 / 12)):
            pairs = _pairs([token.value_D for token in tokens])
            cosines = [cosine for cosine, _, _ in pairs]
            mean = sum(cosines) / max(len(cosines), 1)
            spread = sum((c - mean) ** 2 for c in cosines) / max(len(cosines), 1)
            least = mean + math.sqrt(spread) / number
            tokens = _merge(tokens, {s: t for cosine, s, t in pairs if cosine >= least})
        for token in [*first, *tokens]:
            normed = vit.layer_norm(token.value_D, block, "norm2", 1e-6)
            hidden = vit.gelu(vit.linear(normed, block, "mlp.fc1"))
            token.value_D = token.value_D + vit.linear(hidden, block, "mlp.fc2")
        counts.append(len(tokens))
    return tokens, counts


def _attention(rule, tokens: list[Token], block: vit.Weights, heads: int) -> list[Tensor]:
    """Add what tokens attend to; returns their keys, means over heads."""
    normed = [vit.layer_norm(token.value_D, block, "norm1", 1e-6) for token in tokens]
    qkv = [vit.linear(value, block, "attn.qkv").reshape(3, heads, -1) for value in normed]
    sized = isinstance(rule, ToMe) and rule.proportional
    bias_S = torch.tensor([math.log(len(t.cells)) if sized else 0.0 for t in tokens]).double()
    q_TNK, k_SNK, v_SNK = torch.stack(qkv, 1)
    of_heads = []
    for n in range(heads):
        logits_TS = q_TNK[:, n] @ k_SNK[:, n].T / math.sqrt(q_TNK.shape[2]) + bias_S
        of_heads.append(logits_TS.softmax(1) @ v_SNK[:, n])
    for token, value in zip(tokens, torch.cat(of_heads, 1), strict=True):
        token.value_D = token.value_D + vit.linear(value, block, "attn.proj")
    return [k_NK.mean(0) for _, k_NK, _ in qkv]


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def _pairs(features: list[Tensor]) -> list[tuple[float, int, int]]:
    """Of every even token its best odd one: cosine, source, target."""
    pairs = []
    for source in range(0, len(features), 2):
        targets = range(1, len(features), 2)
        if targets:
            cosines = {t: _cosine(features[source], features[t]) for t in targets}
            best = max(targets, key=cosines.__getitem__)
            pairs.append((cosines[best], source, best))
    return pairs


def _alike_windows(rule: Algm, tokens: list[Token], columns: int) -> dict[int, int]:
    into = {}
    for y in range(0, len(tokens) // columns - 1, 2):
        for x in range(0, columns - 1, 2):
            window = [y * columns + x + i for i in (0, 1, columns, columns + 1)]
            cosines = [
                _cosine(tokens[a].value_D, tokens[b].value_D)
                for i, a in enumerate(window)
                for b in window[i + 1 :]
            ]
            if sum(cosines) / 6 >= rule.threshold:
                into |= dict.fromkeys(window[1:], window[0])
    return into


def _merge(tokens: list[Token], into: dict[int, int]) -> list[Token]:
    merged = []
    for target, token in enumerate(tokens):
        if target in into:
            continue
        group = [token, *(tokens[s] for s, t in into.items() if t == target)]
        cells = [cell for member in group for cell in member.cells]
        value = sum(len(member.cells) * member.value_D for member in group) / len(cells)
        merged.append(Token(value, cells))
    return merged


def _least_useful(rule: Cropr, tokens: list[Token], scorer) -> tuple[list[Token], list[Token]]:
    weights = vit.weights_of(scorer)
    scores = []
    for token in tokens:
        normed = vit.layer_norm(token.value_D, weights, "norm", 1e-6)
        scores.append(float(sum(query @ normed for query in weights["query_QD"])))
    leave = int(rule.r) if rule.r >= 1 else round(rule.r * len(tokens))
    by_score = sorted(range(len(tokens)), key=lambda i: (-scores[i], i))
    stay = set(by_score[: max(len(tokens) - leave, 1)])
    kept = [token for i, token in enumerate(tokens) if i in stay]
    return kept, [token for i, token in enumerate(tokens) if i not in stay]
