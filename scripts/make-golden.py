#!/usr/bin/env python3
"""Makes a tiny random checkpoint and its golden.json: what Hugging Face transformers computes with it.

    python3 -m venv venv && venv/bin/pip install torch transformers
    venv/bin/python scripts/make-golden.py bloom test/fixtures/models/bloom-tiny

The weights are seeded and scaled so that greedy decoding does not collapse; nothing is trained. golden.json holds greedy ids for three
prompts, whole-vocabulary logits and prompt logprobs with the top 5: float32, eager attention, no KV cache.
"""
import argparse
import json
import pathlib
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save

SEED = 20261
GREEDY_TOKENS = 48
PROMPT_LENGTHS = (5, 42, 1)
LOGPROB_PROMPT_LENGTH = 35
NEAR_TIE = 0.05

COMMON = dict(bos_token_id=1, eos_token_id=2, torch_dtype="float32", use_cache=True)

MODELS = {
    # Three heads: ALiBi slopes for a number of heads that is no power of two. No prefix, as the files of the model's authors.
    "bloom": dict(
        config=dict(model_type="bloom", architectures=["BloomForCausalLM"], vocab_size=128, hidden_size=48, n_layer=2, n_head=3,
                    layer_norm_epsilon=1e-5, apply_residual_connection_post_layernorm=False, attention_dropout=0.0, hidden_dropout=0.0),
        drop_prefix="transformer.",
    ),
    "bloom-normed-residual": dict(
        config=dict(model_type="bloom", architectures=["BloomForCausalLM"], vocab_size=64, hidden_size=24, n_layer=2, n_head=3,
                    layer_norm_epsilon=1e-5, apply_residual_connection_post_layernorm=True, attention_dropout=0.0, hidden_dropout=0.0),
    ),
    # What OPT-350m has and other sizes have not.
    "opt-post-norm": dict(
        config=dict(model_type="opt", architectures=["OPTForCausalLM"], vocab_size=64, hidden_size=32, ffn_dim=48, num_hidden_layers=2,
                    num_attention_heads=4, max_position_embeddings=96, word_embed_proj_dim=16, do_layer_norm_before=False,
                    activation_function="relu", dropout=0.0, attention_dropout=0.0, layerdrop=0.0, pad_token_id=0),
        drop_prefix="model.",
    ),
    "gpt-neox-sequential": dict(
        config=dict(model_type="gpt_neox", architectures=["GPTNeoXForCausalLM"], vocab_size=64, hidden_size=32, intermediate_size=48,
                    num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=96, rotary_pct=0.5, rotary_emb_base=10000,
                    use_parallel_residual=False, hidden_act="gelu_fast", layer_norm_eps=1e-5, tie_word_embeddings=False),
    ),
    "gpt2-inverse-scale": dict(
        config=dict(model_type="gpt2", architectures=["GPT2LMHeadModel"], vocab_size=64, n_embd=24, n_layer=3, n_head=3, n_inner=40,
                    n_positions=96, activation_function="gelu_new", layer_norm_epsilon=1e-5, scale_attn_by_inverse_layer_idx=True,
                    resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0),
    ),
}


def randomize(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(SEED)
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        if "embeddings_layernorm" in name:  # small: tied embeddings would otherwise repeat the last token
            parameter.data = noise * 0.1 + (0.2 if name.endswith("weight") else 0.0)
        elif "layer_norm" in name or "layernorm" in name or name.split(".")[-2].startswith("ln"):
            parameter.data = noise * 0.1 + (1.0 if name.endswith("weight") else 0.0)
        elif parameter.ndim == 1:
            parameter.data = noise * 0.1
        elif any(part in name for part in ("embed", "wte", "wpe")):
            parameter.data = noise * 0.5
        else:
            parameter.data = noise * 2.0 / parameter.shape[1] ** 0.5


def logits_of(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0].float()


def rounded(values) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def greedy(model: torch.nn.Module, prompt_ids: list[int]) -> dict:
    ids, gaps = list(prompt_ids), []
    for _ in range(GREEDY_TOKENS):
        best = logits_of(model, ids)[-1].topk(2)
        gaps.append(float(best.values[0] - best.values[1]))
        ids.append(int(best.indices[0]))
    near = [step for step, gap in enumerate(gaps) if gap < NEAR_TIE]
    return dict(prompt_ids=prompt_ids, output_ids=ids[len(prompt_ids):], min_gap=float(f"{min(gaps):.4g}"), steps_with_gap_below_0_05=near)


def prompt_logprobs(model: torch.nn.Module, ids: list[int]) -> dict:
    logprobs = logits_of(model, ids).log_softmax(-1)
    top = logprobs[:-1].topk(5)
    own = [float(logprobs[i, token]) for i, token in enumerate(ids[1:])]
    return dict(ids=ids, logprobs=[None, *rounded(own)], top5_ids=[None, *top.indices.tolist()], top5_logprobs=[None, *map(rounded, top.values.tolist())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("folder", type=pathlib.Path)
    arguments = parser.parse_args()
    spec = MODELS[arguments.model]
    fields = {**spec["config"], **COMMON}
    config = transformers.AutoConfig.for_model(**fields)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    randomize(model)

    generator = torch.Generator().manual_seed(SEED + 1)
    prompt = lambda length: [1, *torch.randint(3, config.vocab_size, (length - 1,), generator=generator).tolist()]
    prompts = [prompt(length) for length in PROMPT_LENGTHS]
    golden = dict(
        generator=f"transformers {transformers.__version__}, torch {torch.__version__}, float32, attn_implementation=eager, no KV cache",
        greedy=[greedy(model, ids) for ids in prompts],
        last_logits=[dict(prompt_ids=ids, logits=rounded(logits_of(model, ids)[-1].tolist())) for ids in prompts[:2]],
        prompt_logprobs=[prompt_logprobs(model, prompt(LOGPROB_PROMPT_LENGTH))],
    )

    arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as saved:
        model.save_pretrained(saved)  # under the names that files on the Hub have, without tied copies
        tensors = load_file(f"{saved}/model.safetensors")
    drop = spec.get("drop_prefix", "")
    data = save({name.removeprefix(drop): value for name, value in tensors.items()}, metadata={"format": "pt"})
    (arguments.folder / "model.safetensors").write_bytes(data)
    (arguments.folder / "config.json").write_text(json.dumps(fields, indent=2) + "\n")
    (arguments.folder / "golden.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
