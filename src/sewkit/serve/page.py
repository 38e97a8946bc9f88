"""The page at `/`: plain files without a build step, and the headers that keep everything else out of it."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from fastapi import APIRouter, Request, Response

STATIC = Path(__file__).parent / "static"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # asked for anew each time, which costs a 304
}


class _Asset:
    """A file of the page, read once."""

    def __init__(self, path: Path):
        self._body = path.read_bytes()
        self._headers = {**HEADERS, "ETag": f'"{sha256(self._body).hexdigest()[:20]}"'}
        self._media_type = MEDIA_TYPES[path.suffix]

    async def __call__(self, request: Request) -> Response:
        if request.headers.get("if-none-match") == self._headers["ETag"]:
            return Response(status_code=304, headers=self._headers)
        return Response(self._body, headers=self._headers, media_type=self._media_type)


def page_router() -> APIRouter:
    """`/` and the files that it asks for under `/static`, no others."""
    router = APIRouter(include_in_schema=False)
    router.add_api_route("/", _Asset(STATIC / "index.html").__call__, methods=["GET", "HEAD"])
    for path in sorted(STATIC.iterdir()):
        if path.name != "index.html":
            router.add_api_route(f"/static/{path.name}", _Asset(path).__call__, methods=["GET", "HEAD"])
    return router
