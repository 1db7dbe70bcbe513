"""Makes a language model of 3 MB with random weights, which a real vLLM can serve: `python make_model.py FOLDER`.

Run by the Python of `.venv-vllm`. Its vocabulary holds every byte, so that it can write any text.
"""

import sys
from pathlib import Path

import torch  # type: ignore[import-not-found]  # only in .venv-vllm
from tokenizers import (  # type: ignore[import-not-found]  # likewise
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    trainers,
)
from transformers import (  # type: ignore[import-not-found]  # likewise
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<pad>")
SAMPLE = ("The quick brown fox jumps over the lazy dog. Acme works in Berlin with Ada.", '{"entities": [], "relations": []}')
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=360, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(SAMPLE, trainer)
    begin, end, *_, padding = SPECIAL
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=begin, eos_token=end, pad_token=padding)
    made.chat_template = TEMPLATE
    return made


def make_model(vocabulary: int) -> LlamaForCausalLM:
    """A small Llama, the same at every run.

    Two heads, because vLLM's CPU attention knows no head smaller than 32. Many layers, because an engine that makes a token in
    a millisecond keeps the event loop of its own server so busy that nothing else is answered meanwhile, cancellations included.
    """
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=24,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=4,
    )
    return LlamaForCausalLM(config).to(torch.bfloat16)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    make_model(len(tokenizer)).save_pretrained(folder)
