"""Files from the hub or any other address: begun downloads are gone on with, sums are checked, errors say offline."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from consistentid.errors import CheckpointError, ConsistentIDError, first_line
from consistentid.files.weights import sha256
from consistentid.files.writing import replacing_folder

UNREACHABLE = (
    "check the name and the network connection, or fetch it elsewhere and name its path in a preset of your own"
)
"""What to do about weights that cannot be fetched."""

_SHA256 = re.compile("[0-9a-f]{64}")


@contextmanager
def fetching(what: str) -> Iterator[None]:
    """Errors of the libraries that fetch as one line that names what was wanted, and says offline where that is it.

    Raises:
        CheckpointError: it cannot be fetched.
    """
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except ConsistentIDError:
        raise
    except (HfHubHTTPError, _http_error(), OSError, ValueError) as error:
        words = offline(error)
        raise CheckpointError(
            f"{what}: {words}" if words else f"{what}: cannot be fetched ({first_line(error)}); {UNREACHABLE}"
        ) from None


def offline(error: BaseException) -> str:
    """What to tell if the network is the reason of an error, its own or of one behind it; else nothing."""
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.errors import FileMetadataError, HfHubHTTPError, LocalEntryNotFoundError

    chain: list[BaseException] = []
    behind: BaseException | None = error
    while behind is not None and behind not in chain:
        chain.append(behind)
        behind = behind.__cause__ or behind.__context__
    answered = any(isinstance(x, (HfHubHTTPError, FileMetadataError)) for x in chain)
    reason = next((x for x in chain if isinstance(x, (ConnectionError, _http_error(), LocalEntryNotFoundError))), None)
    if answered or reason is None:
        return ""
    if is_offline_mode():
        return (
            "offline: HF_HUB_OFFLINE is set and it is not here; unset it, or fetch it on another machine and name its"
            " path in a preset of your own"
        )
    cause = next((x for x in chain if isinstance(x, (ConnectionError, _http_error()))), reason)
    why = str(cause).partition("\n")[0] or type(cause).__name__
    return (
        f"offline: it is not here, and its server cannot be reached ({why}); connect this machine and run"
        " again, which goes on where this stopped, or name its path in a preset of your own"
    )


def _http_error() -> type[Exception]:
    """The base of all errors of the HTTP library that huggingface_hub has: httpx, or httpx2."""
    from huggingface_hub.errors import HfHubHTTPError

    base: type[Exception] = HfHubHTTPError.__mro__[1]
    return base


def fetch_archive(url: str, folder: Path) -> None:
    """Fetches a ZIP archive and unpacks it into `folder`, which appears only when all of it is there.

    Raises:
        CheckpointError: it cannot be fetched, or is no ZIP archive.
    """
    archive = folder.parent / f"{folder.name}.zip"
    part = _part(archive)
    if not zipfile.is_zipfile(part):  # its directory comes last, so one that has it is whole
        _download(url, part)
    try:
        with zipfile.ZipFile(part) as content, replacing_folder(folder) as unpacked:
            content.extractall(unpacked)  # checks the sum of each file
    except zipfile.BadZipFile as error:
        part.unlink()
        raise CheckpointError(f"{url}: is no whole ZIP archive ({error}) and was deleted; run again") from None
    part.unlink()


def fetch_from_hub(repository: str, name: str, revision: str | None) -> Path:
    """One file of a repository in the cache of huggingface_hub.

    That library begins a large file anew after it was stopped; here it is gone on with, and checked before it is taken.

    Raises:
        CheckpointError: it cannot be fetched, or is not what the hub says it is.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.file_download import repo_folder_name
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    found = try_to_load_from_cache(repository, name, revision=revision)
    if isinstance(found, str):
        return Path(found)
    with fetching(f"{repository}/{name}"):
        if not constants.is_offline_mode():
            url = hf_hub_url(repository, name, revision=revision)
            about = get_hf_file_metadata(url)
            if about.etag and _SHA256.fullmatch(about.etag):  # so are large files named
                folder = repo_folder_name(repo_id=repository, repo_type="model")
                blob = Path(constants.HF_HUB_CACHE) / folder / "blobs" / about.etag
                if not blob.exists():
                    same = urlsplit(about.location).netloc == urlsplit(url).netloc
                    part = _part(blob)
                    _download(about.location, part, about.size, build_hf_headers() if same else None, name)
                    if (digest := sha256(part)) != about.etag:
                        part.unlink()
                        raise CheckpointError(
                            f"{repository}/{name}: what came is damaged (SHA-256 {digest[:12]}, the hub says"
                            f" {about.etag[:12]}) and was deleted; run again"
                        )
                    part.replace(blob)
        return Path(hf_hub_download(repository, name, revision=revision))


def check_sums(place: Path, expected: str = "", delete: Path | None = None) -> None:
    """Holds files against the SHA-256 that is known of them: `expected`, or the name the hub's cache gives them.

    Args:
        place: a file, or a folder of which each file is checked that has such a name.
        expected: of a file.
        delete: what to tell the user to delete; by default the file.

    Raises:
        CheckpointError: one is damaged; the message says what to delete.
    """
    for file in [place] if place.is_file() else sorted(x for x in place.rglob("*") if x.is_file()):
        target = file.resolve()
        known = expected or (target.name if _SHA256.fullmatch(target.name) else "")
        if known and (digest := sha256(target)) != known:
            raise CheckpointError(
                f"{file}: is damaged ({target.stat().st_size} bytes of SHA-256 {digest[:12]}, should be {known[:12]});"
                f" delete {delete or target}, and it is fetched again"
            )


def _part(file: Path) -> Path:
    return file.with_name(f"{file.name}.part")


def _download(
    url: str, part: Path, size: int | None = None, headers: dict[str, str] | None = None, name: str | None = None
) -> None:
    """Goes on with a file where it stopped; the library has time limits, tries again and shows its progress."""
    from filelock import FileLock
    from huggingface_hub import constants, get_session
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.file_download import http_get

    part.parent.mkdir(parents=True, exist_ok=True)
    lock = part.with_name(f"{part.name}.lock")
    with fetching(url), FileLock(lock), part.open("ab") as stream:
        have = stream.tell()
        if size is not None and have > size:
            stream.truncate(0)
            have = 0
        if size is None:  # the library tries again for most of a minute where nobody is there
            get_session().head(url, timeout=constants.HF_HUB_ETAG_TIMEOUT, follow_redirects=True)
        try:
            http_get(url, stream, resume_size=have, headers=headers, expected_size=size, displayed_filename=name)
        except HfHubHTTPError as error:
            if not have or error.response.status_code != 416:  # of a file that has become shorter
                raise
            stream.truncate(0)
            http_get(url, stream, headers=headers, expected_size=size, displayed_filename=name)
    lock.unlink(missing_ok=True)
