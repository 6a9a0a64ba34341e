"""Losses in the style of other libraries and of plain torch code, called by what their parameters are called."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from loss_conformance.cases.build import build
from loss_conformance.subject.protocol import CannotFeed
from loss_reference import Contract, Field
from tests.conformance.subject.fed import POOL, assert_fed, route, shapes


def verl_policy_loss(old_log_prob, log_prob, advantages, response_mask, cliprange=0.2):
    ratio = torch.exp(log_prob - old_log_prob)
    losses = torch.max(-advantages * ratio, -advantages * torch.clamp(ratio, 1 - cliprange, 1 + cliprange))
    clipped = ((ratio > 1 + cliprange) * response_mask).sum()
    return (losses * response_mask).sum() / response_mask.sum().clamp(min=1), clipped


def verl_value_loss(vpreds, returns, values, response_mask, cliprange_value=0.5):
    clipped = torch.clamp(vpreds, values - cliprange_value, values + cliprange_value)
    losses = torch.max((vpreds - returns) ** 2, (clipped - returns) ** 2)
    return 0.5 * (losses * response_mask).sum() / response_mask.sum().clamp(min=1)


def trl_grpo(per_token_logps, old_per_token_logps, ref_per_token_logps, advantages, completion_mask, beta=0.04):
    ratio = torch.exp(per_token_logps - old_per_token_logps)
    delta = ref_per_token_logps - per_token_logps
    losses = -ratio * advantages.unsqueeze(1) + beta * (delta.exp() - delta - 1)
    return ((losses * completion_mask).sum(1) / completion_mask.sum(1).clamp(min=1)).mean()


def trl_dpo(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1):
    x = (policy_chosen_logps - policy_rejected_logps) - (reference_chosen_logps - reference_rejected_logps)
    return -F.logsigmoid(beta * x), beta * policy_chosen_logps.detach(), beta * policy_rejected_logps.detach()


class OpenRLHFPairWise(nn.Module):
    def forward(self, chosen_reward, reject_reward, margin=None):
        return -F.logsigmoid(chosen_reward - reject_reward - (0 if margin is None else margin)).mean()


class TorchtunePPO(nn.Module):
    def forward(
        self, pi_old_logprobs, pi_logprobs, advantages, phi_old_values, phi_values, returns, padding_masks=None
    ):
        if padding_masks is None:
            padding_masks = torch.ones_like(pi_logprobs)
        policy = -(torch.exp(pi_logprobs - pi_old_logprobs) * advantages)
        value = (phi_values - returns) ** 2 + 0 * phi_old_values
        return ((policy + value) * padding_masks).sum() / padding_masks.sum().clamp(min=1)


def bool_mask(log_probs, advantages, action_mask):
    return -(log_probs * advantages)[action_mask].sum()


def reinforce(log_prob, reward):
    return -(log_prob * reward).mean()


def focal(inputs, targets, alpha=0.25, gamma=2.0):
    cross_entropy = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
    p = torch.sigmoid(inputs)
    return (cross_entropy * (1 - p * targets - (1 - p) * (1 - targets)) ** gamma).mean()


def dice(inputs, targets, smooth=1.0):
    p, t = torch.sigmoid(inputs).view(-1), targets.view(-1)
    return 1 - (2 * (p * t).sum() + smooth) / (p.sum() + t.sum() + smooth)


class MulticlassFocal(nn.Module):
    def forward(self, input, target):
        cross_entropy = F.cross_entropy(input, target, reduction="none")
        return ((1 - torch.exp(-cross_entropy)) ** 2 * cross_entropy).mean()


def binary_from_probabilities(y_pred, y_true):
    return -(y_true * torch.log(y_pred) + (1 - y_true) * torch.log(1 - y_pred)).mean()


def negative_log_likelihood(log_probs, targets):
    return -log_probs.gather(1, targets[:, None]).mean()


def segmentation(pred, target):
    batch, classes, height, width = pred.shape
    return F.cross_entropy(pred.reshape(batch, classes, height * width), target.reshape(batch, height * width))


def distillation(student_logits, teacher_logits, temperature=1.0):
    log_p = F.log_softmax(student_logits / temperature, -1)
    return F.kl_div(log_p, F.softmax(teacher_logits / temperature, -1), reduction="batchmean") * temperature**2


def distillation_with_labels(student_logits, teacher_logits, labels, alpha=0.5):
    return distillation(student_logits, teacher_logits) + alpha * F.cross_entropy(student_logits, labels)


def language_model(logits, labels, ignore_index=-100):
    flat = logits.reshape(-1, logits.size(-1))
    return F.cross_entropy(flat, labels.reshape(-1), ignore_index=ignore_index)


def language_model_that_shifts(logits, labels, vocab_size, num_items_in_batch=None):
    flat = logits[:, :-1].reshape(-1, vocab_size)
    return F.cross_entropy(flat, labels[:, 1:].reshape(-1), reduction="sum")


def language_model_with_mask(logits, labels, mask):
    losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    return (losses * mask).sum() / mask.sum().clamp(min=1)


def triplet(anchor, positive, negative, margin=1.0):
    return F.relu((anchor - positive).pow(2).sum(-1) - (anchor - negative).pow(2).sum(-1) + margin).mean()


def supervised_contrastive(features, labels, temperature=0.1):
    x = F.normalize(features, dim=1)
    same = labels[:, None].eq(labels[None]).float()
    return -(same * (x @ x.T / temperature).log_softmax(1)).sum() / same.sum()


def contrastive(output1, output2, label, margin=2.0):
    distance = (output1 - output2).pow(2).sum(-1)
    return ((1 - label) * distance + label * F.relu(margin - distance)).mean()


def cosine(x1, x2, y):
    return F.cosine_embedding_loss(x1, x2, y)


NEW = "model_outputs.next_token_logprobs B S-1*>1"
OLD = "batch.prev_logprobs B S-1>1"
MASK = "batch.token_mask B S-1>1"
STYLES = [
    (
        verl_policy_loss,
        {"old_log_prob": OLD, "log_prob": NEW, "advantages": "batch.advantages B S-1>1", "response_mask": MASK},
    ),
    (
        verl_value_loss,
        {
            "vpreds": "model_outputs.values B S-1*>1",
            "returns": "batch.returns B S-1>1",
            "values": "batch.values B S-1>1",
            "response_mask": MASK,
        },
    ),
    (
        trl_grpo,
        {
            "per_token_logps": NEW,
            "old_per_token_logps": OLD,
            "ref_per_token_logps": "batch.reference_policy_logprobs B S-1>1",
            "advantages": "batch.advantages B",
            "completion_mask": MASK,
        },
    ),
    (
        OpenRLHFPairWise,
        {
            "chosen_reward": "pair.chosen_rewards B*",
            "reject_reward": "pair.rejected_rewards B*",
            "margin": "pair.margin B?",
        },
    ),
    (
        TorchtunePPO,
        {
            "pi_old_logprobs": OLD,
            "pi_logprobs": NEW,
            "advantages": "batch.advantages B S-1>1",
            "phi_old_values": "batch.values B S-1>1",
            "phi_values": "model_outputs.values B S-1*>1",
            "returns": "batch.returns B S-1>1",
            "padding_masks": MASK + "?",
        },
    ),
    (bool_mask, {"log_probs": NEW, "advantages": "batch.advantages B S-1>1", "action_mask": MASK + "!"}),
    (reinforce, {"log_prob": "logprobs B*", "reward": "batch.rewards B"}),
    (focal, {"inputs": "values B D*", "targets": "binary_targets B D"}),
    (dice, {"inputs": "values B D*", "targets": "binary_targets B D"}),
    (MulticlassFocal, {"input": "logits B V*", "target": "labels B!"}),
    (binary_from_probabilities, {"y_pred": "probabilities B D*", "y_true": "binary_targets B D"}),
    (negative_log_likelihood, {"log_probs": "logprobs B V*", "targets": "labels B!"}),
    (segmentation, {"pred": "logits B V 4 2*", "target": "labels B 4 2!"}),
    (distillation, {"student_logits": "logits B V*", "teacher_logits": "logits B V"}),
    (
        distillation_with_labels,
        {"student_logits": "logits B V*", "teacher_logits": "logits B V", "labels": "labels B!"},
    ),
    (language_model, {"logits": "model_outputs.logits B S V*", "labels": "batch.input_ids B S!"}),
    (language_model_that_shifts, {"logits": "model_outputs.logits B S V*>1", "labels": "batch.input_ids B S!"}),
    (
        language_model_with_mask,
        {
            "logits": "model_outputs.logits B S V*",
            "labels": "batch.input_ids B S!",
            "mask": "batch.token_mask B S",
        },
    ),
    (triplet, {"anchor": "embeddings B D*", "positive": "embeddings B D*", "negative": "embeddings B D*"}),
    (supervised_contrastive, {"features": "embeddings B D*", "labels": "labels B!"}),
    (contrastive, {"output1": "embeddings B D*", "output2": "embeddings B D*", "label": "binary_targets B"}),
    (cosine, {"x1": "embeddings B D*", "x2": "embeddings B D*", "y": "values B"}),
]


@pytest.mark.parametrize(("loss", "expected"), STYLES, ids=lambda value: getattr(value, "__name__", ""))
def test_styles(loss, expected):
    subject, schema = route(loss)
    assert shapes(schema) == expected
    assert not schema.paired
    assert_fed(subject, schema)


def test_one_term_per_pair():
    subject, schema = route(trl_dpo)
    assert shapes(schema) == {
        f"{whose}_{side}_logps": f"pair.{whose}_{side}_logps B{'*' * (whose == 'policy')}"
        for whose in ("policy", "reference")
        for side in ("chosen", "rejected")
    }
    assert_fed(subject, schema, terms=True)


def test_pairs_on_policy_equal_their_reference():
    _, schema = route(trl_dpo)
    for plan in (*POOL["on_policy"], *POOL["ties"]):
        tensors = build(schema, plan).tensors
        for side in ("chosen", "rejected"):
            assert torch.equal(tensors[f"policy_{side}_logps"], tensors[f"reference_{side}_logps"])
    for plan in POOL["typical"]:
        tensors = build(schema, plan).tensors
        assert not torch.equal(tensors["policy_chosen_logps"], tensors["policy_rejected_logps"])
        assert bool((tensors["policy_chosen_logps"] <= 0).all())


def test_ignored_label_comes_from_the_loss():
    class Ignoring(nn.Module):
        ignore_index = 1

        def forward(self, logits, labels):
            return language_model(logits, labels, self.ignore_index)

    for loss, ignore in (
        (language_model, -100),
        (functools.partial(language_model, ignore_index=0), 0),
        (Ignoring(), 1),
    ):
        subject, schema = route(loss)
        assert next(slot.ignore for slot in schema.slots if slot.name == "labels") == ignore
        for plan in POOL["holes"]:
            case = build(schema, plan)
            assert torch.equal(case.tensors["labels"] == ignore, ~case.trained)
        assert_fed(subject, schema)


def test_settings_bound_by_a_config():
    def simpo(policy_chosen_logps, policy_rejected_logps, beta, gamma):
        return -F.logsigmoid(beta * (policy_chosen_logps - policy_rejected_logps) - gamma).mean()

    subject, schema = route(simpo, config={"beta": 2.0, "gamma": 0.5})
    assert list(shapes(schema)) == ["policy_chosen_logps", "policy_rejected_logps"]
    assert subject.settings == {"beta": 2.0, "gamma": 0.5}
    assert_fed(subject, schema)
    assumed, _ = route(simpo)
    assert assumed.settings == assumed.assumed == {"beta": 0.1, "gamma": 1.5}


def test_a_setting_of_a_name_of_its_own():
    def simpo(policy_chosen_logps, policy_rejected_logps, sharpness):
        return -F.logsigmoid(sharpness * (policy_chosen_logps - policy_rejected_logps)).mean()

    with pytest.raises(CannotFeed) as caught:
        route(simpo)
    assert str(caught.value) == (
        "it needs the argument 'sharpness', whose meaning is not known\n"
        "  if it is a tensor, declare it, on the loss or in --loss-contract:\n"
        '      contract = Contract(fields={"sharpness": Field(role="values", shape="B D")})\n'
        "  if it is a setting, give it a value:\n"
        "      --loss-config '{\"sharpness\": ...}'"
    )


def test_unknown_argument_of_a_module():
    class Odd(nn.Module):
        def forward(self, advantagess, logits):
            return logits.mean()

    with pytest.raises(CannotFeed) as caught:
        route(Odd)
    assert str(caught.value) == (
        "it needs the argument 'advantagess', whose meaning is not known; did you mean 'advantages'?\n"
        "  if it is a tensor, declare it, on the loss or in --loss-contract:\n"
        '      contract = Contract(fields={"advantagess": Field(role="values", shape="B D")})'
    )


@pytest.mark.parametrize("annotation", [list[torch.Tensor], "List[Tensor]", "Sequence[torch.FloatTensor]"])
def test_lists_of_tensors_nobody_knows_are_said_to_be_lists(annotation):
    def deep_supervision(pyramid, target):
        return sum(F.cross_entropy(scale, target) for scale in pyramid)

    deep_supervision.__annotations__["pyramid"] = annotation
    with pytest.raises(CannotFeed) as caught:
        route(deep_supervision)
    assert str(caught.value).startswith("its argument 'pyramid' is a list of tensors (")


@pytest.mark.parametrize("annotation", [torch.Tensor, "Tensor | list[Tensor]", list[int], None])
def test_what_may_be_one_tensor_is_fed_one(annotation):
    def loss(logits, target):
        return F.cross_entropy(logits, target)

    loss.__annotations__["logits"] = annotation
    assert_fed(*route(loss))


def test_declared_fields():
    def of_my_own(scores, wanted, strength):
        assert scores.shape[1:] == (11,)
        return (strength * (scores - wanted) ** 2).mean()

    fields = {"wanted": Field("values", "B 11", trainable=False), "strength": Field("weights", "B 1")}
    with pytest.raises(CannotFeed):
        route(of_my_own, Contract(fields=fields))
    subject, schema = route(of_my_own, Contract(fields={**fields, "scores": Field("logits", "B 11")}))
    assert shapes(schema) == {"scores": "logits B 11*", "wanted": "values B 11", "strength": "weights B 1"}
    assert_fed(subject, schema)


def test_declared_fields_override_names():
    def loss(input, target):
        return ((input - target) ** 2).mean()

    fields = {"target": Field("values", "B D", trainable=True)}
    _, schema = route(loss, Contract(fields=fields))
    assert shapes(schema) == {"input": "values B D*", "target": "values B D*"}


def test_hidden_parameters_are_fed_when_declared():
    def loss(**tensors):
        return (tensors["a"] * tensors["b"]).mean()

    with pytest.raises(CannotFeed) as caught:
        route(loss)
    assert str(caught.value).startswith("it takes no tensors: it has no parameters of its own")
    fields = {"a": Field("logits", "B D"), "b": Field("weights", "B D")}
    subject, schema = route(loss, Contract(fields=fields))
    assert_fed(subject, schema)


def test_nothing_fits():
    def picky(input, target):
        raise ValueError("not like this")

    with pytest.raises(CannotFeed) as caught:
        route(picky)
    lines = str(caught.value).splitlines()
    assert lines[0] == "it accepts none of the inputs its parameters suggest (input, target)"
    assert lines[1] == "  logits [B, S, V] with token ids [B, S]: ValueError: not like this"
    assert lines[-3:] == [
        "  and 18 more",
        "declare what they are, on the loss or in --loss-contract:",
        '    contract = Contract(fields={"input": Field(role=..., shape=...), "target": Field(role=..., shape=...)})',
    ]
    assert 'raise ValueError("not like this")' in caught.value.traceback
    assert "loss_conformance" not in caught.value.traceback.replace("tests/conformance", "")


def test_broken_losses_are_fed_for_the_checks_to_judge():
    def detached(input, target):
        return F.cross_entropy(input, target).detach()

    def never_finite(input, target):
        return F.cross_entropy(input, target) * float("nan")

    def no_tensor(input, target):
        return F.cross_entropy(input, target).item()

    for loss in (detached, never_finite, no_tensor):
        assert shapes(route(loss)[1]) == {"input": "logits B V*", "target": "labels B!"}


def test_probing_leaves_the_loss_as_it_was():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, input, target):
            self.calls += 1
            return F.mse_loss(input, target)

    loss = Counting()
    route(loss)
    assert loss.calls == 0


def test_positional_only_parameters():
    def loss(input, target, /):
        return F.cross_entropy(input, target)

    subject, schema = route(loss)
    assert_fed(subject, schema)


def test_a_helper_called_compute_loss_behind_a_forward():
    class Metric(nn.Module):
        def forward(self, embeddings, labels=None, indices_tuple=None, ref_emb=None, ref_labels=None):
            return self.compute_loss(embeddings, labels, indices_tuple, ref_emb, ref_labels)

        def compute_loss(self, embeddings, labels, indices_tuple, ref_emb, ref_labels):
            assert indices_tuple is ref_emb is ref_labels is None
            same = labels[:, None] == labels
            return (torch.cdist(embeddings, embeddings) ** 2 * same).sum() / same.sum()

    subject, schema = route(Metric())
    assert shapes(schema) == {"embeddings": "embeddings B D*", "labels": "labels B?!"}
    assert_fed(subject, schema)


def test_a_compute_loss_of_two_tensors_behind_a_forward():
    class Classified(nn.Module):
        def forward(self, logits, labels):
            return self.compute_loss(logits, labels)

        def compute_loss(self, logits, labels):
            return F.cross_entropy(logits, labels)

    _, schema = route(Classified())
    assert [slot.name for slot in schema.slots] == ["logits", "labels"]


def test_an_ignored_label_that_is_refused():
    class Sparse(nn.Module):
        ignore_index = -100  # below 0: nothing is ignored

        def forward(self, logits, target):
            return -logits.log_softmax(-1).gather(1, target[:, None]).mean()

    subject, schema = route(Sparse())
    assert all(slot.ignore is None for slot in schema.slots)
    assert_fed(subject, schema)


def test_an_ignored_label_that_is_taken():
    _, schema = route(nn.CrossEntropyLoss())
    assert schema.slots[1].ignore == -100


def test_two_views_and_a_scale():
    def clip(image_features, text_features, logit_scale, logit_bias=None):
        logits = logit_scale * image_features @ text_features.T
        logits = logits if logit_bias is None else logits + logit_bias
        return F.cross_entropy(logits, torch.arange(len(logits)))

    _, schema = route(clip)
    assert shapes(schema) == {
        "image_features": "embeddings B D*",
        "text_features": "embeddings B D*",
        "logit_scale": "values*",
        "logit_bias": "values*?",
    }


def test_the_second_of_two_images_is_the_target():
    def charbonnier(img1, img2):
        assert img1.dim() == 4
        assert img1.shape[1] == 3
        return ((img1 - img2) ** 2 + 1e-6).sqrt().mean()

    subject, schema = route(charbonnier)
    assert shapes(schema) == {"img1": "probabilities B 3 16 16*", "img2": "values B 3 16 16"}
    assert_fed(subject, schema)


def test_a_reading_that_fits_in_some_sizes_only():
    def last_axis(predictions, targets):
        chosen = torch.zeros_like(predictions).scatter(1, targets[..., None], 1.0)
        return -(predictions.log_softmax(-1) * chosen).sum(-1).mean()

    # [B, S, V] with token ids fits as long as there are more tokens than classes, which is an accident.
    _, schema = route(last_axis)
    assert shapes(schema) == {"predictions": "logits B V*", "targets": "labels B!"}
