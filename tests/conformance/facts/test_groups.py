"""How many neighbouring rows belong together: declared, named by a setting, or shown by what is refused."""

import torch

from loss_conformance import check_loss
from loss_conformance.bench import Bench
from loss_conformance.subject.load import load_subject
from loss_conformance.verdict import Status
from loss_reference import Contract, Field, LossFunction


def token_weights(batch):
    return batch["token_mask"][:, 1:] * batch["sample_mask"].unsqueeze(1)


class Answers(LossFunction):
    """Some answers to each prompt; an advantage is the reward less the mean of its prompt."""

    of_a_prompt = 4

    def size(self):
        return self.of_a_prompt

    def compute_loss(self, batch, model_outputs):
        m, w = token_weights(batch), batch["sample_mask"]
        r = torch.where(w != 0, batch["rewards"].detach(), 0.0).reshape(-1, self.size())
        a = (r - r.mean(1, keepdim=True)).flatten()
        terms = -a * (torch.where(m != 0, model_outputs["next_token_logprobs"], 0.0) * m).sum(1)
        return (terms * w).sum() / batch["global_valid_seqs"].clamp(min=1)


class NamedAnswers(Answers):
    """Three of them, which the usual numbers of rows happen to be multiples of."""

    def __init__(self, config=None):
        super().__init__(config)
        self.num_generations = self.config.get("num_generations", 3)

    def size(self):
        return self.num_generations


class Unrelated(Answers):
    """It has such a setting, and compares no rows."""

    def __init__(self, config=None):
        super().__init__(config)
        self.num_generations = self.config.get("num_generations", 3)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp = torch.where(m != 0, model_outputs["next_token_logprobs"], 0.0)
        return -(lp * m).sum() / self.num_generations / batch["global_valid_toks"].clamp(min=1)


def own_group(loss):
    return Bench(load_subject(loss)).facts.contract.group_size


def test_rows_are_refused_that_make_no_whole_group() -> None:
    assert own_group(Answers) == 4


def test_a_setting_names_the_group() -> None:
    assert own_group(NamedAnswers) == 3


def test_a_setting_of_that_name_is_not_believed() -> None:
    assert own_group(Unrelated) is None


def test_a_grouped_loss_is_not_blamed_for_the_rows_it_refuses() -> None:
    assert [v.check for v in check_loss(Answers, profile="quick", seed=0).having(Status.FAILED)] == []


def by_weight(logits, labels, weight_of_answer):
    w = weight_of_answer.detach()
    return (torch.nn.functional.cross_entropy(logits, labels, reduction="none") * w).sum() / w.sum()


by_weight.contract = Contract(
    family="supervised",
    fields={
        "logits": Field("logits", "B V", trainable=True),
        "labels": Field("labels", "B"),
        "weight_of_answer": Field("weights", "B", trainable=False),
    },
)


def test_a_divisor_that_is_the_sum_of_weights_couples_nothing() -> None:
    report = check_loss(by_weight, checks=("row_independence",), profile="quick", seed=0)
    assert [v.check for v in report.having(Status.ADVICE)] == []


def around_a_sample(scores, sample):
    return torch.sigmoid(sample.detach().mean() - scores).mean()


around_a_sample.contract = Contract(
    family="preference",
    coupled=True,
    fields={"scores": Field("values", "B", trainable=True), "sample": Field("values", "M", trainable=False)},
)


def test_rows_may_be_coupled_by_a_sample_they_share() -> None:
    report = check_loss(around_a_sample, checks=("coupled_rows",), profile="quick", seed=0)
    assert [v.check for v in report.having(Status.ADVICE)] == []
