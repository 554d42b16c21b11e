"""What surrounds the weights of the demo checkpoint: configuration, tokenizer, processor."""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import BridgeTowerConfig, RobertaTokenizer
from transformers.models.bridgetower.image_processing_pil_bridgetower import BridgeTowerImageProcessorPil

from demo.captions import JOINING, words
from model.prepare import Preparer

IMAGE_SIZE = 64
PATCH = 16
MAX_TOKENS = 64
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # with Roberta's ids, 0 to 3


def tokenizer() -> Tokenizer:
    """Byte-level BPE with every word of the captions as one token, at the start and after a space."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,  # never reached: merging ends when every word is one token
        min_frequency=1,
        special_tokens=[*SPECIAL, AddedToken("<mask>", lstrip=True, special=True)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator([form for word in words() for form in (word, " " + word)], trainer)
    bpe = with_words(bpe, JOINING)
    bpe.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, False)
    return bpe


def with_words(bpe: Tokenizer, added: tuple[str, ...]) -> Tokenizer:
    """The tokenizer with more words as one token each, behind its own: what it knew keeps its number."""
    state = json.loads(bpe.to_str())
    vocabulary, merges = state["model"]["vocab"], state["model"]["merges"]
    for form in (form for word in added for form in (word, " " + word)):
        whole, *rest = Tokenizer.from_str(json.dumps(state)).encode(form, add_special_tokens=False).tokens
        for piece in rest:
            merges.append([whole, piece])
            whole += piece
            vocabulary.setdefault(whole, len(vocabulary))
    return Tokenizer.from_str(json.dumps(state))


def config(vocabulary: int) -> BridgeTowerConfig:
    """The demo model: 128 wide, four layers a tower, two layers of fusion."""
    return BridgeTowerConfig(
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        contrastive_hidden_size=64,
        logit_scale_init_value=2.6592,
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 256,
            "max_position_embeddings": MAX_TOKENS + 2,
            # Captions and pictures hardly repeat in training: there is nothing to regularise.
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
        vision_config={"hidden_size": 128, "num_hidden_layers": 4, "image_size": IMAGE_SIZE, "patch_size": PATCH},
    )


def write_preprocessing(folder: Path) -> Preparer:
    """Write configuration, tokenizer and processor into `folder`, and load what they make together."""
    folder.mkdir(parents=True, exist_ok=True)
    bpe = tokenizer()
    bpe.save(str(folder / "tokenizer.json"))
    RobertaTokenizer.from_pretrained(folder, model_max_length=MAX_TOKENS).save_pretrained(folder)
    square = {"shortest_edge": IMAGE_SIZE}
    BridgeTowerImageProcessorPil(size=square, crop_size=square, size_divisor=PATCH).save_pretrained(folder)
    config(bpe.get_vocab_size()).save_pretrained(folder)
    return Preparer.from_folder(folder)
