"""What the page says: names of arguments, prompts to begin with, and the words that the drawn preset has learned."""

from __future__ import annotations

from collections.abc import Mapping

ONLY_REPAIR = "only_repair"
"""What the page calls a repair without a picture drawn anew; it is no argument of a request."""

LABELS: Mapping[str, str] = {
    "identity": "Who",
    "prompt": "Prompt",
    "negative_prompt": "What to avoid",
    "num_images_per_prompt": "Pictures",
    "best_of": "Best of",
    "seed": "Seed",
    "num_inference_steps": "Steps",
    "guidance_scale": "Guidance",
    "scale": "ID strength",
    "merge_at": "Merge point",
    "strength": "How much is redrawn",
    "face_text": "Sentence about the face",
    "parts": "Words for parts",
    "part_scales": "Strength of parts",
    "regions": "Boxes",
    "person_prompts": "Words about a person",
    "person_scales": "Strength of a person",
    "repair": "Repair small faces",
    ONLY_REPAIR: "Only repair its faces",
    "repair_below": "Repair below likeness",
    "repair_tries": "Repair tries",
    "image": "Picture",
    "mask": "Painted area",
}
"""Argument of a `Request`, and what is the page's own, -> what it is called on the page."""

DRAWN_EXAMPLES = (
    "a woman in a red hat on a beach",
    "a man with round glasses in a forest, smiling",
    "a watercolor of a woman in a blue dress under the stars",
    "an ink drawing of a man wearing a crown, in the snow",
)

EXAMPLES = (
    "a woman in a red hat on a beach, photo",
    "a man in a spacesuit, portrait, soft light",
    "a woman reading in a cafe, film photo",
    "a man hiking in the mountains, golden hour",
)


def drawn_words() -> dict[str, list[str]]:
    """What can be said to the drawn preset, by subject; a phrase that ends in "of" stands before the person."""
    from consistentid.drawn.portraits.captions import BACKGROUND_WORDS, EXPRESSION_WORDS, STYLE_WORDS, article
    from consistentid.drawn.portraits.scenes import CLOTHES, COLORS, GLASSES, HATS

    def first(table: Mapping[str, tuple[str, ...]]) -> list[str]:
        return [phrases[0] for phrases in table.values()]

    return {
        "Place": [*first(BACKGROUND_WORDS), "in front of a blue wall"],
        "Face": first(EXPRESSION_WORDS),
        "Clothes": [article(word) for word in CLOTHES],
        "On the head": [article(word) for word in HATS if word != "none"],
        "Glasses": [word for word in GLASSES if word != "none"],
        "Style": first(STYLE_WORDS),
        "Colours": list(COLORS),
    }


def with_words(prompt: str, words: str) -> str:
    """A prompt with further words: a style before it, anything else after it."""
    prompt = prompt.strip()
    if words.endswith(" of"):
        return f"{words} {prompt or 'a person'}"
    if words.startswith(("a ", "an ")) or words.endswith("glasses"):
        words = f"wearing {words}"
    return f"{prompt}, {words}" if prompt else f"a person, {words}"
