"""HunyuanVideo's transformer as its own repository and ComfyUI spell it."""

from __future__ import annotations

from typing import Any

from ..original import Shapes, count

CLASS = "HunyuanVideoTransformer3DModel"
MARKS = ("txt_in.individual_token_refiner.blocks.0.norm1.weight", "double_blocks.0.img_attn_qkv.weight")
SPLIT = (
    (r"\.(img_attn|self_attn)_qkv\.", (".attn.to_q.", ".attn.to_k.", ".attn.to_v.")),
    (r"\.txt_attn_qkv\.", (".attn.add_q_proj.", ".attn.add_k_proj.", ".attn.add_v_proj.")),
    (r"\.linear1\.", (".attn.to_q.", ".attn.to_k.", ".attn.to_v.", ".proj_mlp.")),
)
SWAPPED = (r"^final_layer\.adaLN_modulation\.1\.",)  # shift and scale; diffusers has the scale first
RENAMED = (
    (r"^img_in\.", "x_embedder."),
    (r"^time_in\.mlp\.0\.", "time_text_embed.timestep_embedder.linear_1."),
    (r"^time_in\.mlp\.2\.", "time_text_embed.timestep_embedder.linear_2."),
    (r"^guidance_in\.mlp\.0\.", "time_text_embed.guidance_embedder.linear_1."),
    (r"^guidance_in\.mlp\.2\.", "time_text_embed.guidance_embedder.linear_2."),
    (r"^vector_in\.in_layer\.", "time_text_embed.text_embedder.linear_1."),
    (r"^vector_in\.out_layer\.", "time_text_embed.text_embedder.linear_2."),
    (r"^txt_in\.input_embedder\.", "context_embedder.proj_in."),
    (r"^txt_in\.t_embedder\.mlp\.0\.", "context_embedder.time_text_embed.timestep_embedder.linear_1."),
    (r"^txt_in\.t_embedder\.mlp\.2\.", "context_embedder.time_text_embed.timestep_embedder.linear_2."),
    (r"^txt_in\.c_embedder\.", "context_embedder.time_text_embed.text_embedder."),
    (r"^txt_in\.individual_token_refiner\.blocks\.", "context_embedder.token_refiner.refiner_blocks."),
    (r"(refiner_blocks\.\d+)\.adaLN_modulation\.1\.", r"\1.norm_out.linear."),
    (r"(refiner_blocks\.\d+)\.self_attn_proj\.", r"\1.attn.to_out.0."),
    (r"(refiner_blocks\.\d+)\.mlp\.", r"\1.ff."),
    (r"^double_blocks\.", "transformer_blocks."),
    (r"\.img_mod\.", ".norm1."),
    (r"\.txt_mod\.", ".norm1_context."),
    (r"\.img_attn_([qk])_norm\.", r".attn.norm_\1."),
    (r"\.txt_attn_([qk])_norm\.", r".attn.norm_added_\1."),
    (r"\.img_attn_proj\.", ".attn.to_out.0."),
    (r"\.txt_attn_proj\.", ".attn.to_add_out."),
    (r"\.img_mlp\.", ".ff."),
    (r"\.txt_mlp\.", ".ff_context."),
    (r"\.fc1\.", ".net.0.proj."),
    (r"\.fc2\.", ".net.2."),
    (r"^single_blocks\.", "single_transformer_blocks."),
    (r"\.([qk])_norm\.", r".attn.norm_\1."),
    (r"\.linear2\.", ".proj_out."),
    (r"\.modulation\.linear\.", ".norm.linear."),
    (r"^final_layer\.adaLN_modulation\.1\.", "norm_out.linear."),
    (r"^final_layer\.linear\.", "proj_out."),
)


def config(shapes: Shapes, told: dict[str, Any]) -> dict[str, Any]:
    """diffusers' config of a checkpoint with tensors of these shapes.

    What no shape tells is what HunyuanVideo has: rotary frequencies of base 256, of which an eighth turns with time
    and the rest with height and width alike; a text refiner with the heads of the model.
    """
    width, channels, *patch = shapes["img_in.proj.weight"]
    head_dim = shapes["double_blocks.0.img_attn_q_norm.weight"][0]
    out_channels = shapes["final_layer.linear.weight"][0] // (patch[0] * patch[1] * patch[2])
    turned = head_dim // 16 * 2
    return {
        "in_channels": channels,
        "out_channels": out_channels,
        "num_attention_heads": width // head_dim,
        "attention_head_dim": head_dim,
        "num_layers": count(shapes, "double_blocks"),
        "num_single_layers": count(shapes, "single_blocks"),
        "num_refiner_layers": count(shapes, "txt_in.individual_token_refiner.blocks"),
        "mlp_ratio": shapes["double_blocks.0.img_mlp.fc1.weight"][0] / width,
        "patch_size": patch[1],
        "patch_size_t": patch[0],
        "qk_norm": "rms_norm",
        "guidance_embeds": "guidance_in.mlp.0.weight" in shapes,
        "text_embed_dim": shapes["txt_in.input_embedder.weight"][1],
        "pooled_projection_dim": shapes["vector_in.in_layer.weight"][1],
        "rope_theta": 256.0,
        "rope_axes_dim": [turned, (head_dim - turned) // 2, (head_dim - turned) // 2],
        "image_condition_type": "latent_concat" if channels > out_channels else None,
    }
