"""The page's widgets, and what each does. Only this module knows Gradio."""

from __future__ import annotations

from collections.abc import AsyncIterator
from html import escape
from typing import Any

import gradio as gr
from fastapi import FastAPI

from consistentid.faces.parts import PARTS
from consistentid.presets.preset import Preset
from consistentid.serving.page import STATIC
from consistentid.serving.page.actions import TYPED, Actions
from consistentid.serving.page.words import DRAWN_EXAMPLES, EXAMPLES, LABELS, ONLY_REPAIR, drawn_words, with_words
from consistentid.serving.service import Service

_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

_CONSENT = (
    "Use only pictures of people who agree to it. Photos, people and pictures stay in this browser and on the machine"
    " that runs this page, and are gone when the tab is closed. What is made carries the mark of an AI-generated"
    " picture."
)

_REUSED = ("prompt", "negative_prompt", "num_images_per_prompt", "best_of", "seed", "num_inference_steps",
           "guidance_scale", "scale", "merge_at", "strength", "face_text", "repair", "repair_below",
           "repair_tries", ONLY_REPAIR)  # fmt: skip
"""Arguments of a request in the order of their widgets."""

_UNSAID: dict[str, Any] = {**dict.fromkeys(TYPED, ""), "face_text": "", "repair": False, ONLY_REPAIR: False}
"""What widgets show of arguments that a request does not name."""


def build(service: Service, preset: Preset) -> FastAPI:
    """The page as an application of its own."""
    actions = Actions(service, preset)
    page = _blocks(actions)
    page.queue(default_concurrency_limit=None)  # the service has the queue
    font = ("system-ui", "sans-serif")
    app: FastAPI = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        page,
        "/",
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
        theme=gr.themes.Default(
            primary_hue="teal", neutral_hue="slate", font=font, font_mono=("ui-monospace", "monospace")
        ),
        css=(STATIC / "page.css").read_text(),
        footer_links=[],
        run_history=False,  # it would keep prompts in the browser
        ssr_mode=False,
        show_error=False,
    )
    return app


def _custom(name: str, *events: str, **options: Any) -> gr.HTML:
    """A part of the page that is written in JavaScript: static/NAME.js."""
    script = (STATIC / "common.js").read_text() + (STATIC / f"{name}.js").read_text()
    assert all(f"'{event}'" in script for event in events)
    return gr.HTML(
        None, html_template=f'<div class="cid-{name}"></div>', js_on_load=script, elem_id=f"cid-{name}", **options
    )


def _client(request: Any) -> str:
    """Whose browser it is: Gradio hands over a request of its own to some functions, and starlette's to others."""
    return str(getattr(request, "request", request).state.client)


def _blocks(actions: Actions) -> gr.Blocks:
    service, preset = actions.service, actions.preset
    settings, limits = preset.settings, service.limits
    most = min(limits.pictures, 16)

    # Gradio finds out from the annotations which arguments are its own.
    async def identify(sent: Any, request: gr.Request) -> Any:
        return await actions.identify(_client(request), sent)

    async def read(sent: Any, request: gr.Request) -> Any:
        return await actions.read(_client(request), sent)

    async def invent(_: Any) -> Any:
        return await actions.invent()

    async def generate(request: gr.Request, people: Any, picture: Any, *values: Any) -> AsyncIterator[Any]:
        async for told in actions.generate(_client(request), people, picture, _given(values)):
            yield told

    with gr.Blocks(analytics_enabled=False, title="consistentid", fill_width=False) as page:
        with gr.Row(elem_id="cid-head"):
            gr.HTML(
                f"<h1>consistentid</h1><p>New portraits of a person, from a photo and a sentence."
                f" <span class='cid-preset'>preset {preset.name}</span></p>",
                scale=4,
            )
            theme = gr.Button("Light or dark", size="sm", scale=0, min_width=120, elem_id="cid-theme")
        state = gr.HTML("", elem_id="cid-state")
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320):
                gr.HTML(f"<h2>Who</h2><p class='cid-consent'>{_CONSENT}</p>")
                people = _custom(
                    "people", parts=list(PARTS), drawn=preset.drawings_only, most=limits.body_bytes,
                    photos=limits.photos, server_functions=[identify, read, invent],
                )  # fmt: skip
                gr.HTML("<h2>What</h2>")
                prompt = gr.Textbox(
                    label="Prompt", lines=2, max_lines=6, elem_id="cid-prompt", placeholder="a woman in a red hat",
                    max_length=limits.characters,
                )  # fmt: skip
                gr.Examples(
                    [[text] for text in (DRAWN_EXAMPLES if preset.drawings_only else EXAMPLES)], prompt,
                    label="Examples", api_visibility="private",
                )  # fmt: skip
                words = _custom("words", "word", visible=preset.drawings_only)
                with gr.Row():
                    number = gr.Slider(1, most, min(4, most), step=1, label="Pictures", elem_id="cid-number")
                    seed = gr.Textbox(
                        label="Seed", placeholder="by chance", elem_id="cid-seed", max_lines=1,
                        info="the same seed and settings make the same pictures",
                    )  # fmt: skip
                with gr.Row():
                    scale = gr.Slider(
                        0, 2, settings.scale, step=0.05, label="ID strength", info="0 = nobody, 1 = as trained"
                    )
                    merge_at = gr.Slider(
                        0, 1, settings.merge_at, step=0.05, label="Merge point",
                        info="share of the steps after which the words for the face join in",
                    )  # fmt: skip
                with gr.Accordion("More settings", open=False):
                    negative = gr.Textbox(settings.negative_prompt, label="What to avoid", max_length=limits.characters)
                    face_text = gr.Textbox(
                        label="Sentence about the face", placeholder="She has green eyes and a small nose.",
                        max_length=limits.characters,
                    )  # fmt: skip
                    with gr.Row():
                        steps = gr.Slider(1, limits.steps, min(settings.steps, limits.steps), step=1, label="Steps")
                        guidance = gr.Slider(1, 20, settings.guidance_scale, step=0.1, label="Guidance")
                    best_of = gr.Textbox(
                        label="Best of", placeholder="off", max_lines=1, info="make so many, keep those most alike"
                    )
                with gr.Accordion("Change a picture, or say where people are", open=False):
                    picture = _custom(
                        "picture", most=limits.body_bytes, width=settings.width, height=settings.height,
                        wider=settings.person_width,
                    )  # fmt: skip
                    strength = gr.Slider(0.05, 1, settings.strength, step=0.05, label="How much is redrawn")
                    repair = gr.Checkbox(
                        False, label="Repair small faces", info="draws each anew, large, and puts it back"
                    )
                    only = gr.Checkbox(
                        False, label=LABELS[ONLY_REPAIR], info="with these words, seed and steps; all else stays"
                    )
                    with gr.Row():
                        below = gr.Textbox(
                            label="Repair below likeness", placeholder="off", max_lines=1,
                            info="also larger faces, if they are less alike",
                        )  # fmt: skip
                        tries = gr.Textbox(
                            label="Repair tries", placeholder="1", max_lines=1, info="the most alike face is kept"
                        )
            with gr.Column(scale=6, min_width=320):
                with gr.Row(elem_id="cid-act"):
                    go = gr.Button("Generate", variant="primary", elem_id="cid-generate", scale=3)
                    stop = gr.Button("Cancel", elem_id="cid-cancel", scale=1, min_width=100)
                results = _custom("results", "reuse")
                presets = gr.HTML("", elem_id="cid-presets")
        widgets = [prompt, negative, number, best_of, seed, steps, guidance, scale, merge_at, strength, face_text,
                   repair, below, tries, only]  # fmt: skip
        work = gr.on([go.click, prompt.submit], generate, [people, picture, *widgets], results,
                     trigger_mode="once", **_QUIET)  # fmt: skip
        stop.click(None, None, None, cancels=[work], **_QUIET)  # of which the results hear for themselves
        theme.click(None, js="() => { document.body.classList.toggle('dark'); }", **_QUIET)

        def add(text: str, chosen: gr.EventData) -> str:
            return with_words(text, str(chosen._data["words"]))

        def reuse(chosen: gr.EventData) -> list[Any]:
            said = chosen._data["request"]
            found = {name: str(said[name]) if name in TYPED else said[name] for name in _REUSED if name in said}
            return [found.get(name, _UNSAID.get(name, gr.skip())) for name in _REUSED]

        words.word(add, prompt, prompt, **_QUIET)
        results.reuse(reuse, None, widgets, **_QUIET)

        def look() -> tuple[Any, ...]:
            """How far loading is, until it ends."""
            if service.state == "loading":
                return _status(actions.loading), gr.skip(), gr.skip(), gr.skip()
            known = drawn_words() if preset.drawings_only else None
            return _status(actions.loading), known, _presets(actions), gr.Timer(active=False)

        timer = gr.Timer(0.7)
        gr.on([page.load, timer.tick], look, None, [state, words, presets, timer], **_QUIET)
    return page


def _status(text: str) -> str:
    return f"<p role='status'>{escape(text)}</p>" if text else ""


def _presets(actions: Actions) -> str:
    """What else can be served, and what that takes; open where the weights of the served preset are missing."""
    items = []
    for preset in actions.presets():
        words = [f"<b>{escape(preset['name'])}</b>: {escape(preset['about'])}."]
        if preset["missing"]:
            each = [f"{item['role']} {item['megabytes']} MB ({item['source']})" for item in preset["missing"]]
            words.append(f"Not here, {preset['to_fetch_mb']} MB: {escape('; '.join(each))}.")
        words.append("In use." if preset["served"] and not preset["missing"] else "To use it:")
        words += [f"<code>{escape(line)}</code>" for line in preset["lines"]]
        items.append(f"<li>{' '.join(words)}</li>")
    opened = " open" if actions.service.state == "failed" else ""
    return f"<details{opened}><summary>Presets</summary><ul>{''.join(items)}</ul></details>"


def _given(values: tuple[Any, ...]) -> dict[str, Any]:
    """What the widgets say; an empty one says nothing, but of texts that a preset has, too, or that must be there."""
    found = dict(zip(_REUSED, values, strict=True))
    texts = ("prompt", "negative_prompt")
    return {name: value for name, value in found.items() if name in texts or value not in (None, "", False)}
