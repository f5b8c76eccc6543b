"""Images for every token of a line, for matchers trained on token level: the work on one range of lines."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from vokenization.vokenization import VokenizeJob
from xvoken.devices import autocast
from xvoken.disk import replacing
from xvoken.text_batches import batches_by_length, pad_lines
from xvoken.text_towers import masked_mean
from xvoken.token_features import flat_rows


class TokenVokenizeJob(VokenizeJob):
    """Lines of tokens -> best row of each token, and best rows of each line by the mean of its tokens; see xvoken.work.Job."""

    def run(self, start: int, stop: int, part: Path) -> dict[str, Any]:
        tokens, offsets = self.lines.slab(start, stop)
        offsets = offsets - offsets[0]
        counts = np.diff(offsets)
        kept = np.minimum(counts, self.padding.max_tokens - 2)  # tokens that the tower sees
        indices = np.full((stop - start, self.topk), -1, np.int32)
        scores = np.full((stop - start, self.topk), np.nan, np.float32)
        vokens = np.full(offsets[-1], -1, np.int32)
        for batch in batches_by_length(counts, self.batch_size):
            ids, mask = (tensor.to(self.device) for tensor in pad_lines(tokens, offsets[batch], counts[batch], self.padding))
            with torch.inference_mode():
                with autocast(self.device, self.precision):
                    states = self.tower.tokens(ids, mask)
                queries = self.head(states.float())  # (B, T, dim)
                lines = masked_mean(queries, mask).cpu().numpy()
            scores[batch], indices[batch] = self.index.search(lines, self.topk)
            inside = np.arange(ids.shape[1] - 2) < kept[batch][:, None]  # special tokens get no image
            words = queries[:, 1:-1].cpu().numpy()[inside]
            vokens[flat_rows(offsets[batch], kept[batch])] = self.index.search(words, 1)[1][:, 0]
        with replacing(part.with_suffix(".npz")) as temporary, open(temporary, "wb") as file:
            np.savez(file, indices=indices, scores=scores, counts=counts, vokens=vokens)
        return {"empty": int((counts == 0).sum()), "cut": int((counts > kept).sum())}
