"""What one client may ask of the service, and the checks that keep to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from consistentid.errors import InputError
from consistentid.serving.refusal import RefusedError

if TYPE_CHECKING:
    from consistentid.pipeline.request import Request
    from consistentid.presets.settings import Settings


@dataclass(frozen=True)
class Limits:
    """Bounds of the service.

    Attributes:
        body_bytes: of the body of one HTTP request.
        pixels: of one uploaded picture.
        photos: of one person.
        pictures: made in one request, over all its prompts and `best_of`.
        steps: sampling steps.
        side: pixels of a made picture's longer side.
        characters: of one text.
        waiting: requests in the queue, the one that is being worked on not counted.
        waiting_per_client: those of one token or, without tokens, of one address, also the one being worked on.
        seconds: from a request's arrival until it is given up.
        keep_results: seconds for which the pictures of a background job wait for their client; fetched, they are gone.
        keep_identities: seconds for which identities are kept in memory; 0 = never, the client keeps the file.

    Raises:
        InputError: a bound that lets nothing through.
    """

    body_bytes: int = 32 << 20
    pixels: int = 25_000_000
    photos: int = 8
    pictures: int = 16
    steps: int = 100
    side: int = 1536
    characters: int = 2000
    waiting: int = 32
    waiting_per_client: int = 16
    seconds: float = 300
    keep_results: float = 600
    keep_identities: float = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            lowest = 0 if name == "keep_identities" else 1
            if not value >= lowest:
                raise InputError(f"{name}={value} of the service's limits lets nothing through; give {lowest} or more")

    def check_request(self, request: Request, defaults: Settings) -> None:
        """Makes sure that a valid request stays within the bounds.

        Raises:
            RefusedError: it does not; the message names the bound.
        """
        settings = request.settings(defaults)
        for what, found, most in (
            (
                "pictures (prompts x best_of or num_images_per_prompt)",
                len(request.prompts) * request.made,
                self.pictures,
            ),
            ("num_inference_steps", settings.steps, self.steps),
            ("width", settings.width, self.side),
            ("height", settings.height, self.side),
            ("batch_size", settings.batch_size, max(defaults.batch_size, 1)),
        ):
            if found > most:
                raise RefusedError(400, "over_limit", f"{what}: {found} are too many for this service; at most {most}")
