"""The staged forward pass: text tower, vision tower, fusion, heads.

One backbone feeds every head of transformers' BridgeTowerForContrastiveLearning,
BridgeTowerForImageAndTextRetrieval and BridgeTowerForMaskedLM; the modules and their weights' names
are theirs, so a checkpoint of any of the three loads here, and one saved here loads there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import BridgeTowerConfig, BridgeTowerModel, BridgeTowerPreTrainedModel
from transformers.models.bridgetower import modeling_bridgetower as stock

from model.fusion import Opening, close_side, fusion_layer, open_side, text_block, vision_block

DEFAULT_LEVELS = torch.stack(
    [
        (torch.arange(256) / 255 - mean) / std
        for mean, std in zip((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711), strict=True)
    ]
)


@dataclass(frozen=True)
class TextStates:
    """The text tower's output for B captions: (B, L, H) for each fusion layer, embedding (B, E)."""

    layers: list[Tensor]
    mask: Tensor  # (B, 1, 1, L), additive
    opening: Opening
    embedding: Tensor | None  # None without an ITC head


@dataclass(frozen=True)
class ImageStates:
    """The vision tower's output for N pictures: (N, T, H) for each fusion layer, embedding (N, E)."""

    layers: list[Tensor]
    opening: Opening
    embedding: Tensor | None


@dataclass(frozen=True)
class Fused:
    """The fusion's output for P pairs: pooled (P, 2H) float32, text features (P, L, H), or L = 1: the first token."""

    pooled: Tensor
    text_features: Tensor


class BridgeTower(BridgeTowerPreTrainedModel):  # type: ignore[misc]  # transformers is untyped
    """BridgeTower with all three of its heads over one backbone."""

    _tied_weights_keys = stock.BridgeTowerForMaskedLM._tied_weights_keys
    float32_modules = ("itc_text_head", "itc_image_head", "itc_cross_modal_head", "itm_score", "mlm_score")

    def __init__(self, config: BridgeTowerConfig) -> None:
        super().__init__(config)
        # No class default; a checkpoint without an ITC head may lack it (and the initial logit scale).
        width = getattr(config, "contrastive_hidden_size", None) or 512
        self.bridgetower = BridgeTowerModel(config)
        self.itc_text_head = stock.BridgeTowerContrastiveHead(config.hidden_size, width)
        self.itc_image_head = stock.BridgeTowerContrastiveHead(config.hidden_size, width)
        self.itc_cross_modal_head = stock.BridgeTowerContrastiveHead(config.hidden_size * 2, width)
        self.logit_scale = nn.Parameter(torch.tensor(0.0))
        self.itm_score = stock.BridgeTowerITMHead(config.hidden_size * 2)
        self.mlm_score = stock.BridgeTowerMLMHead(config)
        self.levels = nn.Buffer(DEFAULT_LEVELS.clone(), persistent=False)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, BridgeTower):  # from_pretrained leaves what is not in the file uninitialised
            module.levels.copy_(DEFAULT_LEVELS)
            if not getattr(module.logit_scale, "_is_hf_initialized", False):
                nn.init.constant_(module.logit_scale, getattr(self.config, "logit_scale_init_value", None) or 2.6592)

    def get_output_embeddings(self) -> Any:
        """The MLM decoder, which a configuration may tie to the word embeddings."""
        return self.mlm_score.decoder if self.mlm_score is not None else None

    def cast(self, dtype: torch.dtype) -> "BridgeTower":
        """Backbone to `dtype`; poolers and heads stay float32."""
        self.to(dtype)
        backbone = self.bridgetower
        kept = [getattr(self, name) for name in self.float32_modules]
        for module in (*kept, backbone.cross_modal_text_pooler, backbone.cross_modal_image_pooler):
            if module is not None:
                module.float()
        self.levels.data = self.levels.float()
        return self

    @property
    def compute_dtype(self) -> torch.dtype:
        """The backbone's dtype."""
        weight: Tensor = self.bridgetower.token_type_embeddings.weight
        return weight.dtype

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> TextStates:
        """Captions (B, L) -> the text tower's states. `text_embeds` depends on this tower alone."""
        mask = self._mask(attention_mask)
        states = list(self._read(input_ids, mask))
        layers = [self._transform("text", x, i, token_type=0) for i, x in enumerate(states)]
        backbone = self.bridgetower
        start = backbone.cross_modal_text_layernorm(layers[0])
        own, other = backbone.cross_modal_text_layers[0], backbone.cross_modal_image_layers[0]
        return TextStates(
            layers, mask, open_side(own, other, start, mask, only_first=False), self._text_itc(states[-1])
        )

    def encode_images(self, pixels: Tensor) -> ImageStates:
        """uint8 squares (N, 3, S, S) -> the vision tower's states. `image_embeds` depends on it alone."""
        backbone = self.bridgetower
        layers = [self._transform("image", x, i, token_type=1) for i, x in enumerate(self._see(pixels))]
        start = backbone.cross_modal_image_layernorm(layers[0])
        own, other = backbone.cross_modal_image_layers[0], backbone.cross_modal_text_layers[0]
        last = self.config.num_hidden_layers == 1
        opening = open_side(own, other, start, None, only_first=last)
        return ImageStates(layers, opening, self._image_itc(layers[-1]))

    def text_embedding(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor | None:
        """`text_embeds` (B, E) alone, without what the fusion would read; None without an ITC head."""
        *_, x = self._read(input_ids, self._mask(attention_mask))
        return self._text_itc(x)

    def image_embedding(self, pixels: Tensor) -> Tensor | None:
        """`image_embeds` (N, E) alone, without what the fusion would read; None without an ITC head."""
        *_, x = self._see(pixels)
        return self._image_itc(self._transform("image", x[:, :1], self.config.num_hidden_layers - 1, token_type=1))

    def _mask(self, attention_mask: Tensor) -> Tensor:
        # Made here once, four-dimensional: transformers' own helper asks the device whether any token
        # is padded, a synchronisation a batch.
        mask = 1 - attention_mask[:, None, None, :].to(self.compute_dtype)
        return mask * torch.finfo(self.compute_dtype).min

    def _read(self, input_ids: Tensor, mask: Tensor) -> Iterator[Tensor]:
        """The text tower's states (B, L, H) of those layers that the fusion reads."""
        tower = self.bridgetower.text_model
        x = tower.embeddings(input_ids=input_ids)
        for i, block in enumerate(tower.encoder.layer, self.config.num_hidden_layers - len(tower.encoder.layer)):
            x = text_block(block, x, mask)
            if i >= 0:
                yield x

    def _see(self, pixels: Tensor) -> Iterator[Tensor]:
        """The vision tower's states (N, T, H) of those layers that the fusion reads."""
        visual = self.bridgetower.vision_model.visual
        # A table of the 256 levels gives exactly the values of transformers' numpy processor.
        index = pixels.int()
        normal = torch.stack([self.levels[c][index[:, c]] for c in range(3)], dim=1)
        x = visual.ln_pre(visual.embeddings(normal.to(self.compute_dtype)))
        blocks = visual.transformer.resblocks
        for i, block in enumerate(blocks, self.config.num_hidden_layers - len(blocks)):
            x = vision_block(block, x)
            if i >= 0:
                yield visual.ln_post(x)

    def _text_itc(self, x: Tensor) -> Tensor | None:
        return None if self.itc_text_head is None else normalize(self.itc_text_head(x[:, 0].float()), dim=-1)

    def _image_itc(self, x: Tensor) -> Tensor | None:
        return None if self.itc_image_head is None else normalize(self.itc_image_head(x[:, 0].float()), dim=-1)

    def _transform(self, side: str, states: Tensor, layer: int, token_type: int) -> Tensor:
        transform = getattr(self.bridgetower, f"cross_modal_{side}_transform")
        if not self.config.share_cross_modal_transformer_layers:
            transform = transform[layer]
        token_types: Tensor = self.bridgetower.token_type_embeddings.weight
        moved: Tensor = transform(states) + token_types[token_type]
        return moved

    def fuse(
        self, text: TextStates, images: ImageStates, text_of: Tensor, image_of: Tensor, every_token: bool = False
    ) -> Fused:
        """Fuse P pairs, given as indexes (P,) into the captions and the pictures.

        The heads of embedding and matching read the first token alone, and the last layer computes no other;
        the MLM head asks for `every_token` of the text.
        """
        backbone = self.bridgetower
        mask = text.mask.index_select(0, text_of)
        texts, pictures = backbone.cross_modal_text_layers, backbone.cross_modal_image_layers
        mine, other = text.opening.of(text_of), images.opening.of(image_of)
        fused_t, fused_v = close_side(texts[0], mine, other, None), close_side(pictures[0], other, mine, mask)
        for i in range(1, self.config.num_hidden_layers):
            t, v = text.layers[i].index_select(0, text_of), images.layers[i].index_select(0, image_of)
            t = backbone.cross_modal_text_link_tower[i - 1](t, fused_t, mask)
            v = backbone.cross_modal_image_link_tower[i - 1](v, fused_v, None)
            last = i == self.config.num_hidden_layers - 1
            fused_t = fusion_layer(texts[i], t, v, (mask, None), last and not every_token)
            fused_v = fusion_layer(pictures[i], v, t, (None, mask), last)
        pooled = backbone.get_cls_features(fused_t[:, :1].float(), fused_v[:, :1].float())
        return Fused(pooled, fused_t)

    def cross_embedding(self, fused: Fused) -> Tensor:
        """`cross_embeds`, (P, E) of unit length."""
        return normalize(self.itc_cross_modal_head(fused.pooled), dim=-1)

    def itm_logits(self, fused: Fused) -> Tensor:
        """Image-text-matching logits (P, 2); index 1 is "they match"."""
        logits: Tensor = self.itm_score(fused.pooled)
        return logits

    def mlm_logits(self, fused: Fused) -> Tensor:
        """Masked-language-model logits (P, L, vocabulary)."""
        logits: Tensor = self.mlm_score(fused.text_features.float())
        return logits
