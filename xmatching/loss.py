"""Training objectives: pure functions of the embeddings of one whole batch."""

import torch
from torch import Tensor


def paired_hinge(text: Tensor, image: Tensor, owner: Tensor, margin: float = 0.5) -> Tensor:
    """Pairwise hinge on sentence level (Tan & Bansal, EMNLP 2020, eq. 3; Liang et al., ACL 2021).

    Pair i of the first half and pair j of the second half are each other's negatives:
    mean over i, j of  max(0, m - s_i . v_i + s_i . v_j)  and  max(0, m - s_j . v_j + s_j . v_i).
    Two pairs that show the same picture are no negatives; of an odd batch the last pair is left out.

    text, image: (B, d), rows belong together, of length 1; owner: int64 (B,), the picture of each row -> scalar
    """
    half = len(text) // 2
    first, second = slice(0, half), slice(half, 2 * half)
    true_first = (text[first] * image[first]).sum(-1)  # (half,)
    true_second = (text[second] * image[second]).sum(-1)
    false_first = (text[first] * image[second]).sum(-1)
    false_second = (text[second] * image[first]).sum(-1)
    hinge = torch.relu(margin - true_first + false_first) + torch.relu(margin - true_second + false_second)
    different = (owner[first] != owner[second]).to(hinge.dtype)
    return (hinge * different).sum() / (2 * different.sum()).clamp(min=1)


LOSSES = {"paired_hinge": paired_hinge}
