"""A window that shows frames as soon as they are done."""

from __future__ import annotations

from typing import Self

from PIL import Image

from cora.video.errors import VideoError

_SCREEN_SHARE = 0.9


class LiveWindow:
    """A window that stays open until its context ends, or until the user presses Escape, Q or its close button.

    Args:
        title: title of the window.

    Raises:
        VideoError: there is no display, or Python came without tkinter.
    """

    def __init__(self, title: str) -> None:
        try:
            import tkinter
        except ImportError:
            raise VideoError(
                "live window: expected Python with tkinter, got one without; "
                "install it (Debian: python3-tk), or show nothing"
            ) from None
        try:
            self._root = tkinter.Tk()
        except tkinter.TclError as error:
            raise VideoError(f"live window: expected a display, got none ({error}); write a file instead") from None
        self._root.title(title)
        self._open = True
        self._label = tkinter.Label(self._root, borderwidth=0)
        self._label.pack()
        for key in ("<Escape>", "q"):
            self._root.bind(key, lambda event: self._close())
        self._root.protocol("WM_DELETE_WINDOW", self._close)

    def _close(self) -> None:
        self._open = False

    def show(self, picture: Image.Image) -> bool:
        """Show an image, shrunk to fit the screen; returns False once the user has closed the window."""
        from PIL import ImageTk

        if not self._open:
            return False
        screen = self._root.winfo_screenwidth(), self._root.winfo_screenheight()
        factor = min(1.0, *(_SCREEN_SHARE * room / side for room, side in zip(screen, picture.size, strict=True)))
        if factor < 1:
            picture = picture.resize((int(picture.width * factor), int(picture.height * factor)))
        self._shown = ImageTk.PhotoImage(picture, master=self._root)  # tkinter keeps no reference of its own
        self._label.configure(image=self._shown)
        self._root.update()
        return self._open

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._root.destroy()
