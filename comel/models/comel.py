"""The CoMEL model: embedding, GDAT blocks, attention pooling, and per task a bag head and an instance classifier.

Equations and the published code's defects: ``docs/method.md``. What goes beyond the paper is an option here:

- ``instance="classifier"``: an instance classifier trained by BPPL and the bag's label, beside the attention, whose score
  means the same on every slide; ``attention`` keeps the published scaled attention. ``neighbourhood`` draws its logits
  towards those of the tiles around, and with ``bag_evidence`` its strongest instances speak for the bag.
- ``context``: once a task is learned, what its tiles show together and where (:mod:`comel.nn.context`) speaks for bag and
  instances in place of both; ``linear`` keeps of this the linear classifier of tiles alone, which is the simplest baseline. A
  head that has learned from a second task goes on without it.
- ``recognition="statistics"``: heads are combined by :mod:`comel.nn.recognition`; ``none`` concatenates their logits.
- ``loss_over="task"``: cross-entropy over the columns of the bag's own task; ``seen`` runs over all heads, as published.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, ValidationInfo, field_validator, model_validator
from torch import Tensor, nn

from comel.base.settings import comma_separated
from comel.cohort.classes import Head
from comel.models.base import MAX_WIDTH, AttentionOptions, BagBatch, BagOutput, MILModel, Over, as_batch, cross_entropy
from comel.models.heads import initialise
from comel.nn.block import make_block
from comel.nn.bppl import bppl_loss, next_threshold, pseudo_labels, reachable_threshold, scaled_attention
from comel.nn.context import RADII, Context, ContextEvidence, PlacedBag
from comel.nn.evidence import BagEvidence
from comel.nn.heads.router import HeadRouter
from comel.nn.instances import InstanceClassifier, instance_loss, strongest_of_bags, with_surroundings
from comel.nn.layout.layout import Layout
from comel.nn.mixers import make_mixer
from comel.nn.mixers.base import Mixer, Width
from comel.nn.paths import PathEnsemble
from comel.nn.places import Places
from comel.nn.poolings import make_pooling
from comel.nn.recognition import TaskRecognition

__all__ = ["CoMEL", "CoMELOptions", "Trunk"]

_CERTAIN = 1e-6
_BALANCE = 0.01
"""Weight of the balance between routed heads (Jin et al. 2025)."""
_ROUNDING = 2.0**-21
"""More than a logit in float32 loses, over the logit."""


class CoMELOptions(AttentionOptions):
    """Settings of the model; the defaults are CoMEL's default."""

    earlier: ClassVar[Mapping[str, Any]] = {
        "context": "none",
        "mixer": ["gdat"],
        "mixer_options": {},
        "mlp": "gelu",
        "paths": "sum",
        "pooling": "attention",
        "pooling_options": {},
    }

    blocks: int = Field(2, ge=1, le=64, description="blocks")
    mixer: tuple[str, ...] = Field(
        ("gdat",), description="how the instances of a block look at each other: one name, or one per block"
    )
    mixer_options: dict[str, dict[str, Any]] = Field({}, description="settings of mixers, by the mixer's name")
    mlp: Literal["gelu", "glu", "gdfn"] = Field("gelu", description="feed-forward part of a block")
    paths: Literal["sum", "ensemble"] = Field("sum", description="how the blocks' outputs are read; ensemble: each weighed")
    pooling: str = Field("attention", description="how the instances become one vector")
    pooling_options: dict[str, Any] = Field({}, description="settings of the pooling")
    mlp_ratio: float = Field(4.0, gt=0, le=64, description="hidden width of a block's MLP over dim")
    attention_hidden: int = Field(256, ge=1, le=MAX_WIDTH, description="hidden width of the attention pooling")
    region_size: int = Field(16, ge=1, le=256, description="side of a region or of a spatial group, in tiles")
    grouping: Literal["strided", "region", "spatial"] = Field("strided", description="how instances are grouped")
    pad: Literal["masked", "published"] = Field("masked", description="whether padding enters means and softmaxes")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout in the blocks")
    embed_dropout: float = Field(0.25, ge=0, lt=1, description="dropout after the embedding")
    instance: Literal["classifier", "attention"] = Field("classifier", description="where instance scores come from")
    top_instances: float = Field(0.1, gt=0, le=1, description="share of a positive bag taken as surely positive")
    top_decay: float = Field(0.7, ge=0, lt=1, description="factor an epoch by which that share comes down from a whole bag")
    neighbourhood: float = Field(0.5, ge=0, le=1, description="weight of the mean around a tile in its instance logit")
    evidence_share: float = Field(0.03, gt=0, le=1, description="share of a bag's instances that speak for the bag")
    bag_evidence: bool = Field(True, description="let the strongest instances speak for the bag, beside the pooled head")
    pooled_share: float = Field(0.1, ge=0, description="weight of the pooled head beside them")
    context: Context = Field(
        "full",
        description="what speaks for the bags and tiles of a task once it is learned; linear: its linear classifier alone",
    )
    head_norm: bool = Field(True, description="normalise the bag feature before the heads")
    head_lr: float = Field(2.0, gt=0, description="learning rate of the heads over trainer.lr")
    recognition: Literal["statistics", "none"] = Field("statistics", description="how the heads of tasks are combined")
    loss_over: Over = Field("task", description="columns the cross-entropy runs over")
    bppl_tau1: float = Field(0.8, ge=0, lt=1, description="bag confidence above which BPPL labels a bag's instances")
    bppl_tau: float = Field(0.5, ge=0, le=1, description="start of tau2, and how it follows the training bags")
    bppl_temperature: float = Field(0.5, gt=0, description="temperature of the prototype softmax")
    bppl_centre: bool = Field(True, description="measure cosines from the midpoint of the two prototypes")
    bppl_relative: bool = Field(True, description="place tau2 relative to the highest confidence that can occur")

    @field_validator("pad")
    @classmethod
    def _published_is_a_list(cls, pad: str, info: ValidationInfo) -> str:
        if pad == "published" and info.data.get("grouping") == "spatial":
            raise ValueError("'published' belongs to the groupings strided and region")
        return pad

    def make_mixers(self) -> list[Mixer]:
        """A mixer for each block."""
        names = self.mixer * self.blocks if len(self.mixer) == 1 else self.mixer
        width = Width(self.dim, self.num_heads, self.mlp_ratio, self.dropout)
        return [make_mixer(name, width, self._options_of(name)) for name in names]

    def make_pooling(self) -> nn.Module:
        """The pooling after the blocks."""
        options = self.pooling_options
        return make_pooling(self.pooling, self.dim, heads=self.num_heads, hidden=self.attention_hidden, options=options)

    def _options_of(self, mixer: str) -> dict[str, Any]:
        own = {"region_size": self.region_size, "grouping": self.grouping, "pad": self.pad} if mixer == "gdat" else {}
        return own | self.mixer_options.get(mixer, {})

    @field_validator("mixer", mode="before")
    @classmethod
    def _one_name_or_several(cls, value: Any) -> Any:
        return comma_separated(value)

    @model_validator(mode="after")
    def _mixers_fit(self) -> CoMELOptions:
        for name in ("region_size", "grouping", "pad"):
            if "gdat" not in self.mixer and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} belongs to mixer 'gdat', and mixer names {', '.join(self.mixer)}; leave it out")
            if name in self.mixer_options.get("gdat", {}):
                raise ValueError(f"mixer_options.gdat.{name} is the setting model.{name}; give that one")
        if len(self.mixer) not in (1, self.blocks):
            raise ValueError(f"mixer names {len(self.mixer)} for {self.blocks} blocks; give one name, or one per block")
        unused = [name for name in self.mixer_options if name not in self.mixer]
        if unused:
            raise ValueError(f"mixer_options are given for '{unused[0]}', and mixer names {', '.join(self.mixer)}")
        with torch.device("meta"):  # shapes are checked before memory is asked for
            if self.mixer != ("gdat",) or self.mlp != "gelu":
                for mixer in self.make_mixers():
                    make_block(mixer, self.mlp)
            if self.pooling != "attention":
                self.make_pooling()
        return self


class Trunk(nn.Module):
    """What all tasks share: features (B, M, D) -> instance features (B, M, dim), bag feature (B, dim), attention (B, M)."""

    def __init__(self, dimension: int, options: CoMELOptions) -> None:
        super().__init__()
        self.embed = nn.Linear(dimension, options.dim)
        self.dropout = nn.Dropout(options.embed_dropout)
        self.blocks = nn.ModuleList(make_block(mixer, options.mlp) for mixer in options.make_mixers())
        self.paths = PathEnsemble(list(self.blocks), options.dim) if options.paths == "ensemble" else None
        self.pool = options.make_pooling()

    def forward(
        self, features: Tensor, coords: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        h = self.dropout(F.relu(self.embed(features)))  # (B, M, dim)
        layout = Layout.of(h, coords, mask)
        if self.paths is not None:
            h = self.paths(h, list(self.blocks), layout)  # (B, M, dim)
        else:
            for block in self.blocks:
                h = block(h, layout)  # (B, M, dim)
        z, attention = self.pool(h, mask)  # (B, dim), (B, M)
        return h, z, attention


class CoMEL(MILModel):
    """The model; starts without a head.

    Args:
        dimension: D, length of a feature vector.
        options: :class:`CoMELOptions`; default CoMEL's default.
        heads: heads to begin with.
    """

    Options = CoMELOptions
    adapter_targets: tuple[str, ...] = ("embed", "q", "k", "v", "proj", "fc1", "fc2")

    def __init__(self, dimension: int, options: CoMELOptions | None = None, heads: Iterable[Head] = ()) -> None:
        super().__init__(dimension)
        self.options: CoMELOptions = options or CoMELOptions()
        self.trunk = Trunk(dimension, self.options)
        if (self.options.mixer, self.options.mlp, self.options.pooling) != (("gdat",), "gelu", "attention"):
            linears = [(name, part) for name, part in self.trunk.named_modules() if isinstance(part, nn.Linear)]
            least = self.options.dim // 2  # narrower ones, such as those of positions, have no room for adapters
            self.adapter_targets = tuple(
                name for name, part in linears if name == "embed" or (part.in_features >= least and part.out_features > 1)
            )
        self.bag_heads = nn.ModuleList()
        self.instance_heads = nn.ModuleList()
        self.recognition = TaskRecognition(dimension) if self.options.recognition == "statistics" else None
        both = self.options.instance == "classifier" and self.options.bag_evidence
        self.evidence_of_bag = BagEvidence(self.options.pooled_share) if both else None
        self.context = ContextEvidence(dimension, self.options.context) if self.options.context != "none" else None
        self.register_buffer("tau2", torch.tensor(self.options.bppl_tau, dtype=torch.float64))
        self.register_buffer("instance_shift", torch.zeros(0))  # (C,)
        self.register_buffer("epochs", torch.zeros(0, dtype=torch.int64))  # (heads,) since each was added
        self.trunk.apply(initialise)
        self._epoch, self._alone = _EpochRecord(), False
        for head in heads:
            self.add_head(head)

    tau2: Tensor
    instance_shift: Tensor
    epochs: Tensor

    def add_head(self, head: Head) -> None:
        """Append a bag head and, with ``instance="classifier"``, an instance classifier."""
        device = self.tau2.device
        self.bag_heads.append(nn.Linear(self.options.dim, len(head.labels)).apply(initialise).to(device))
        if self.options.instance == "classifier":
            self.instance_heads.append(InstanceClassifier(self.dimension, len(head.labels)).to(device))
        self.instance_shift = torch.cat([self.instance_shift, self.instance_shift.new_zeros(len(head.labels))])
        self.epochs = torch.cat([self.epochs, self.epochs.new_zeros(1)])
        if self.evidence_of_bag is not None:
            self.evidence_of_bag.add_head(len(head.labels))
        if self.context is not None:
            self.context.add_head(len(head.labels))
        if self.recognition is not None:
            self.recognition.add_classes(len(head.labels))
        super().add_head(head)

    @property
    def head_lr_scale(self) -> float:
        """Learning rate of heads over the trunk's."""
        return self.options.head_lr

    def head_parameters(self, head: int) -> list[nn.Parameter]:
        """The bag head's and the instance classifier's parameters."""
        modules = [self.bag_heads[head], *([self.instance_heads[head]] if len(self.instance_heads) else [])]
        return [parameter for module in modules for parameter in module.parameters()]

    @property
    def uses_places(self) -> bool:
        """Through the surroundings of a tile, the context, or a mixer or feed-forward part that looks at places."""
        options = self.options
        near = options.instance == "classifier" and options.neighbourhood > 0
        mixers = [part for part in self.trunk.modules() if isinstance(part, Mixer)]
        return near or options.context == "full" or options.mlp == "gdfn" or any(mixer.uses_places for mixer in mixers)

    def forward(self, bags: BagBatch | Tensor) -> BagOutput:
        """See :class:`comel.models.base.BagOutput`."""
        bags = as_batch(bags)
        h, z, attention = self.trunk(bags.features, bags.coords, bags.mask)  # (B, M, dim), (B, dim), (B, M)
        head_logits = self.pooled_logits(z)  # (B, C)
        instance_logits = self._instance_logits(bags) if len(self.instance_heads) else None  # (B, M, C)
        if self.evidence_of_bag is not None and instance_logits is not None:
            head_logits = self.evidence_of_bag(head_logits, self._strongest(instance_logits, bags.mask))  # (B, C)
        if not (self.training or self._alone):
            head_logits, instance_logits = self._in_context(bags, head_logits, instance_logits)
        logits = self._combine(bags, head_logits)  # (B, C)
        return BagOutput(
            logits=logits,
            attention=attention,
            instance_scores=self._instance_scores(logits, attention, instance_logits, bags.mask),
            bag_features=z,
            instance_features=h,
            head_logits=head_logits,
            instance_logits=instance_logits,
            mask=bags.mask,
        )

    def pooled_logits(self, z: Tensor) -> Tensor:
        """Logits of the heads on the bag feature, (B, C)."""
        seen = F.layer_norm(z, z.shape[-1:]) if self.options.head_norm else z  # (B, dim)
        return torch.cat([head(seen) for head in self.bag_heads], dim=-1)

    def _instance_logits(self, bags: BagBatch) -> Tensor:
        """Logits of the instance classifiers, (B, M, C)."""
        logits = torch.cat([head(bags.features) for head in self.instance_heads], dim=-1)  # (B, M, C)
        if bags.coords is None or not self.options.neighbourhood:
            return logits
        return with_surroundings(logits, bags.coords, self.options.neighbourhood, bags.mask)

    @contextmanager
    def network(self) -> Iterator[None]:
        """Within it no head's context speaks."""
        before, self._alone = self._alone, True
        try:
            yield
        finally:
            self._alone = before

    def _in_context(self, bags: BagBatch, head_logits: Tensor, instance_logits: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Both with the columns of heads whose context is known as the context has them."""
        known = [i for i in range(len(self.classes.heads)) if self.context is not None and self.context.knows(i)]
        if self.context is None or not known:
            return head_logits, instance_logits
        head_logits = head_logits.clone()
        if instance_logits is not None:
            instance_logits = instance_logits.clone()
        for b, (features, coords) in enumerate(_bags_of(bags)):
            if not len(features):
                continue
            places = None if coords is None else Places(coords, RADII)
            for head in known:
                columns = self.classes.columns(head)
                if (said := self.context(head, features, places)) is None:
                    continue
                evidence, tiles = said  # (labels,), (M, labels)
                # Odds of one finding against the rest, where no negative label has the rest, are probabilities to be shared.
                lone = self.classes.heads[head].negative is None
                head_logits[b, columns] = F.logsigmoid(evidence) if lone else evidence
                if instance_logits is not None:
                    instance_logits[b, slice(None) if bags.mask is None else bags.mask[b], columns] = tiles
        return head_logits, instance_logits

    def distance(self, bags: BagBatch, head: int | None = None) -> Tensor | None:
        """From the statistics of task recognition; None without them."""
        if self.recognition is None:
            return None
        columns = slice(0, len(self.classes)) if head is None else self.classes.columns(head)
        return self.recognition.distance(bags.features, bags.mask, columns)

    def loss(self, output: BagOutput, labels: Tensor, *, over: Over | None = None) -> dict[str, Tensor]:
        """``ce``, ``bppl``, ``instance`` of an instance classifier and ``balance`` of routed heads, means over the bags."""
        terms: dict[str, list[Tensor]] = {}
        for b, label in enumerate(labels.tolist()):
            ce, logits, start = cross_entropy(self, output.head_logits[b], label, over)  # (), (columns of the loss,)
            terms.setdefault("ce", []).append(ce)
            rows = slice(None) if output.mask is None else output.mask[b]
            for name, value in self._instance_terms(output, b, rows, label, logits, start).items():
                terms.setdefault(name, []).append(value)
        found = {name: torch.stack(values).mean() for name, values in terms.items()}
        balances = [part.balance for part in self.trunk.modules() if isinstance(part, HeadRouter) and part.balance is not None]
        if balances:
            found["balance"] = _BALANCE * torch.stack(balances).mean()
        return found

    def _instance_terms(
        self, output: BagOutput, b: int, rows: slice | Tensor, label: int, logits: Tensor, start: int
    ) -> dict[str, Tensor]:
        """Terms over the instances of bag ``b``, labelled ``label``; its cross-entropy ran over ``logits`` from ``start``."""
        positive = self.classes.positive[label]
        options = self.options
        h, attention = output.instance_features[b, rows], output.attention[b, rows]  # (M, dim), (M,)
        confidence, predicted = torch.softmax(logits.detach(), dim=-1).max(dim=-1)  # (), ()
        correct = int(predicted) + start == label
        self._epoch.quality.append(confidence.item() * correct)
        pseudo = None
        if positive and correct and confidence > options.bppl_tau1:
            tau2 = self.tau2.item()
            if options.bppl_relative:
                tau2 = reachable_threshold(tau2, options.bppl_temperature)
            pseudo = pseudo_labels(h.detach(), attention.detach(), tau2, options.bppl_temperature, centre=options.bppl_centre)
            self._epoch.kept.append(pseudo.kept_fraction)
        terms = {}
        if pseudo is not None:
            terms["bppl"] = bppl_loss(scaled_attention(attention), pseudo)
        else:
            terms["bppl"] = attention.sum() * 0
        if output.instance_logits is not None:
            terms["instance"] = attention.sum() * 0
            head = self.classes.head_of(label)
            share = self._share(head)
            for column in self._findings(head):
                scores = output.instance_logits[b, rows, column]  # (M,)
                terms["instance"] = terms["instance"] + instance_loss(scores, column == label, share)
                if column == label and pseudo is not None:
                    terms["instance"] = terms["instance"] + bppl_loss(torch.sigmoid(scores), pseudo)
        return terms

    def _share(self, head: int) -> float:
        """Share of a positive bag that is taken as positive: all of a new head's first bags, then ever fewer.

        Before a classifier has seen anything, its strongest instances are any; from the mean of all it starts aright.
        """
        return max(self.options.top_instances, self.options.top_decay ** int(self.epochs[head]))

    def _strongest(self, instance_logits: Tensor, mask: Tensor | None) -> Tensor:
        return strongest_of_bags(instance_logits, self.classes.positive, self.options.evidence_share, mask)

    def _combine(self, bags: BagBatch, head_logits: Tensor) -> Tensor:
        """Logits over all classes: as they are, or composed of log p(task) and log p(class | task)."""
        if self.recognition is None:
            return head_logits
        if len(self.classes.heads) == 1:
            return head_logits / self.temperature
        columns = [self.classes.columns(i) for i in range(len(self.classes.heads))]
        log_task = self.recognition.log_task(bags.features, bags.mask, columns)  # (B, heads)
        tempered = [head_logits[:, c] / t for c, t in zip(columns, self.temperature, strict=True)]  # (B, labels) of each head
        return torch.cat([log_task[:, i : i + 1] + logits.log_softmax(dim=-1) for i, logits in enumerate(tempered)], dim=1)

    def calibrate(self, head: int, threshold: float) -> float:
        """Move the classifier's logits so that the threshold lies at 0.5, on every task and slide."""
        if not len(self.instance_heads):
            return threshold
        place = min(max(threshold, _CERTAIN), 1 - _CERTAIN)
        # The instance whose score is the threshold must not fall below it by rounding: of its score, or of its logit.
        place -= 2 * float(np.spacing(np.float32(place)))
        logit = math.log(place / (1 - place))
        self.instance_shift[self._findings(head)] += logit - _ROUNDING * (1 + abs(logit))
        return 0.5

    def _findings(self, head: int) -> list[int]:
        """The columns of a head's positive classes."""
        columns = self.classes.columns(head)
        return [column for column in range(columns.start, columns.stop) if self.classes.positive[column]]

    def with_task(self, output: BagOutput, head: int) -> BagOutput:
        """As the contract says, from the logits of the head alone."""
        columns = self.classes.columns(head)
        logits = torch.full_like(output.head_logits, -torch.inf)  # (B, C)
        logits[:, columns] = output.head_logits[:, columns] / self.temperature[head]
        scores = self._instance_scores(logits, output.attention, output.instance_logits, output.mask)
        return replace(output, instance_scores=scores)

    def _instance_scores(
        self, logits: Tensor, attention: Tensor, instance_logits: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """What an instance shows of each class, (B, M, C); for the negative class, that it shows no finding.

        With an instance classifier p(task | bag) x p(instance shows it | task): the classifier has learned from bags without
        the finding what is none, so its score means the same on every slide, and the bag's own prediction adds nothing.
        Attention is always somewhere strongest, so there it is p(class | bag) x the scaled attention.
        """
        probability = torch.softmax(logits, dim=-1).unsqueeze(1)  # (B, 1, C)
        if instance_logits is None:
            within = torch.zeros_like(attention)  # (B, M)
            for b, real in enumerate(torch.ones_like(attention, dtype=torch.bool) if mask is None else mask):
                within[b, real] = scaled_attention(attention[b, real])
            within = within.unsqueeze(-1).expand(-1, -1, logits.shape[1])  # (B, M, C)
        else:
            within = torch.sigmoid(instance_logits - self.instance_shift)  # (B, M, C)
        scores = probability * within  # (B, M, C)
        heads = [torch.logsumexp(logits[:, self.classes.columns(i)], dim=-1) for i in range(len(self.classes.heads))]  # (B,)
        # The sum of a lone head's probabilities misses 1 by rounding, which would rank the tiles of different slides.
        tasks = torch.softmax(torch.stack(heads, dim=-1), dim=-1)  # (B, heads)
        for i, head in enumerate(self.classes.heads):
            columns, task = self.classes.columns(i), tasks[:, i].unsqueeze(-1)  # (B, 1)
            if instance_logits is not None:
                scores[:, :, columns] = task.unsqueeze(-1) * within[:, :, columns]
            if head.negative is not None:
                negative = columns.start + head.labels.index(head.negative)
                clearest = within[:, :, self._findings(i)].amax(dim=-1)  # (B, M)
                scores[:, :, negative] = task * (1 - clearest)
        return scores if mask is None else scores * mask.unsqueeze(-1)

    def end_epoch(self) -> dict[str, float]:
        """Move tau2 after the epoch's bags; report it with the share of instances that BPPL kept."""
        report = {"tau2": self.tau2.item(), "bppl_kept": self._epoch.kept_fraction, "bppl_bags": float(len(self._epoch.kept))}
        if self._epoch.quality:
            quality = sum(self._epoch.quality) / len(self._epoch.quality)
            self.tau2.fill_(next_threshold(quality, self.options.bppl_tau))
        self._epoch = _EpochRecord()
        self.epochs += 1
        return report

    def end_task(self, bags: Iterable[tuple[BagBatch, int]]) -> None:
        """Store what bags of this task are recognised by later, and settle how its heads weigh pooled head and instances."""
        pooled, evidence, labels, seen = [], [], [], set()
        with torch.inference_mode():
            for bag, column in bags:
                seen.add(column)
                if self.recognition is not None and bag.features.shape[1]:
                    self.recognition.observe(bag.features[0], column)
                if self.evidence_of_bag is not None:
                    pooled.append(self.pooled_logits(self.trunk(bag.features, bag.coords, bag.mask)[1]))  # (1, C)
                    evidence.append(self._strongest(self._instance_logits(bag), bag.mask))  # (1, C)
                    labels.append(column)
        if self.recognition is not None:
            self.recognition.fit()
        if self.context is not None:
            with torch.inference_mode():
                for head in sorted({self.classes.head_of(column) for column in seen}):
                    findings = [column - self.classes.columns(head).start for column in self._findings(head)]
                    self.context.fit(head, _OfHead(bags, self.classes.columns(head)), findings)
        if self.evidence_of_bag is not None and labels:
            columns = torch.tensor(labels, device=self.tau2.device)  # (bags,)
            for head in sorted({self.classes.head_of(column) for column in labels}):
                own = self.classes.columns(head)
                mine = (columns >= own.start) & (columns < own.stop)  # (bags,)
                self.evidence_of_bag.settle(own, torch.cat(pooled)[mine], torch.cat(evidence)[mine], columns[mine])


class _OfHead:
    """The bags of a head among others, with the place of each label in the head."""

    def __init__(self, bags: Iterable[tuple[BagBatch, int]], columns: slice) -> None:
        self._bags, self._columns = bags, columns

    def __iter__(self) -> Iterator[tuple[PlacedBag, int]]:
        for bag, column in self._bags:
            if self._columns.start <= column < self._columns.stop and bag.features.shape[1]:
                (own,) = _bags_of(bag)
                yield own, column - self._columns.start


def _bags_of(bags: BagBatch) -> Iterator[PlacedBag]:
    """Each bag of a batch without its padding."""
    for b in range(len(bags.features)):
        rows = slice(None) if bags.mask is None else bags.mask[b]
        yield bags.features[b, rows], None if bags.coords is None else bags.coords[b, rows]


class _EpochRecord:
    """What an epoch's bags gave: confidence x correct of each, and the share BPPL kept of each bag it labelled."""

    def __init__(self) -> None:
        self.quality: list[float] = []
        self.kept: list[float] = []

    @property
    def kept_fraction(self) -> float:
        return sum(self.kept) / len(self.kept) if self.kept else 0.0
