"""Rows of the study of real bugs that no single loss object can show, and why."""

from __future__ import annotations

from typing import Final

NOT_EXPRESSED: Final[dict[str, str]] = {
    "B006": "glue: the mask is made before the loss",
    "B015": "glue: the labels are made before the loss; inside a loss it is B016",
    "B026": "glue: mask construction; inside a loss it is B024",
    "B031": "the target of an off-policy critic is made outside the vocabulary (done flags)",
    "B037": "same form as B032",
    "B038": "same form as B032",
    "B045": "pipeline schedule",
    "B046": "permutation of dynamic batches lies outside the loss",
    "B049": "data parallel mean",
    "B051": "same form as B050",
    "B052": "context parallel groups",
    "B062": "vocabulary parallel kernel",
    "B066": "crashes on the first call, as B067 does",
    "B072": "same form as B071",
    "B084": "exactly equal rewards give exactly 0 here; needs rewards whose mean rounds",
    "B109": "75 million terms",
    "B114": "same form as B113, in a GPU backend",
    "B122": "both forms are legal surrogates; only a reference could tell",
    "B126": "an expectation over samples",
    "B127": "both forms are legal surrogates; only a reference could tell",
    "B146": "own parameters and a reference",
    "B149": "both branches are legal; only their names are exchanged",
    "B152": "state over a training run",
    "B170": "another backend",
    "B174": "more axes than the vocabulary has",
    "B185": "host synchronisation needs a trace",
    "B186": "memory",
    "B187": "the definition of a metric",
    "B190": "the definition of a metric",
    "B191": "a controller outside the loss",
    "B197": "a factor of a term; only a reference could tell",
    "B198": "own parameters and a reference",
    "B202": "router outputs outside the vocabulary",
}
