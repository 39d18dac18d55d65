"""Wan's transformer as its own repository and ComfyUI spell it."""

from __future__ import annotations

from typing import Any

from ..original import Shapes, count

CLASS = "WanTransformer3DModel"
MARKS = ("head.modulation", "blocks.0.self_attn.q.weight")
RENAMED = (
    (r"^time_embedding\.0\.", "condition_embedder.time_embedder.linear_1."),
    (r"^time_embedding\.2\.", "condition_embedder.time_embedder.linear_2."),
    (r"^text_embedding\.0\.", "condition_embedder.text_embedder.linear_1."),
    (r"^text_embedding\.2\.", "condition_embedder.text_embedder.linear_2."),
    (r"^time_projection\.1\.", "condition_embedder.time_proj."),
    (r"^img_emb\.emb_pos$", "condition_embedder.image_embedder.pos_embed"),
    (r"^img_emb\.proj\.0\.", "condition_embedder.image_embedder.norm1."),
    (r"^img_emb\.proj\.1\.", "condition_embedder.image_embedder.ff.net.0.proj."),
    (r"^img_emb\.proj\.3\.", "condition_embedder.image_embedder.ff.net.2."),
    (r"^img_emb\.proj\.4\.", "condition_embedder.image_embedder.norm2."),
    (r"^head\.modulation$", "scale_shift_table"),
    (r"^head\.head\.", "proj_out."),
    (r"\.modulation$", ".scale_shift_table"),
    (r"\.self_attn\.", ".attn1."),
    (r"\.cross_attn\.", ".attn2."),
    (r"\.([qkv])\.(weight|bias)$", r".to_\1.\2"),
    (r"\.o\.(weight|bias)$", r".to_out.0.\1"),
    (r"\.([kv])_img\.", r".add_\1_proj."),
    (r"\.norm_k_img\.", ".norm_added_k."),
    (r"\.norm3\.", ".norm2."),
    (r"\.ffn\.0\.", ".ffn.net.0.proj."),
    (r"\.ffn\.2\.", ".ffn.net.2."),
)


def config(shapes: Shapes, told: dict[str, Any]) -> dict[str, Any]:
    """diffusers' config of a checkpoint with tensors of these shapes; `told` is the repository's own, or empty.

    What no shape tells is what all of Wan's models have: heads of 128, a norm before cross attention, eps 1e-6.
    """
    width, channels, *patch = shapes["patch_embedding.weight"]
    volume = patch[0] * patch[1] * patch[2]
    has_image = "img_emb.proj.0.weight" in shapes
    positions = shapes.get("img_emb.emb_pos")
    heads = told.get("num_heads", width // 128)
    return {
        "patch_size": patch,
        "num_attention_heads": heads,
        "attention_head_dim": width // heads,
        "in_channels": channels,
        "out_channels": shapes["head.head.weight"][0] // volume,
        "text_dim": shapes["text_embedding.0.weight"][1],
        "freq_dim": shapes["time_embedding.0.weight"][1],
        "ffn_dim": shapes["blocks.0.ffn.0.weight"][0],
        "num_layers": count(shapes, "blocks"),
        "cross_attn_norm": told.get("cross_attn_norm", True),
        "qk_norm": "rms_norm_across_heads",
        "eps": told.get("eps", 1e-6),
        "image_dim": shapes["img_emb.proj.0.weight"][0] if has_image else None,
        "added_kv_proj_dim": width if has_image else None,
        "rope_max_seq_len": 1024,
        "pos_embed_seq_len": positions[1] if positions else None,
    }
