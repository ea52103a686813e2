namespace LayerSkip

open System.IO
open System.Text

/// Draws pictures: as pages to move in, and as SVG that stands still.
[<RequireQualifiedAccess>]
module Plots =
    let private write (path: string) (text: string) : Result<unit, LayerSkipError list> =
        AtomicFile.writeBytes path (Encoding.UTF8.GetBytes text)

    /// One HTML file that needs nothing else: plotly.js is in it once, and nothing is loaded. Light or dark as the reader's
    /// system is. Texts of pictures may hold anything: they are shown, and never run.
    let html (title: string) (parts: PagePart list) : string = Page.html title parts

    /// The picture as SVG: the same bits for the same numbers, light or dark as the reader's system is.
    let svg (picture: Picture) : string = PictureSvg.draw picture

    /// Writes the parts as a page (.html), or a single picture as SVG (.svg); the old file stays until the new one is whole.
    /// Errors: a path that cannot be written, or that ends otherwise.
    let save (path: string) (title: string) (parts: PagePart list) : Result<unit, LayerSkipError list> =
        match Path.GetExtension(path).ToLowerInvariant(), parts with
        | ".svg", [ PagePart.Drawn picture ] -> write path (svg picture + "\n")
        | (".html" | ".htm"), _ -> write path (html title parts)
        | _ ->
            Error [
                LayerSkipError.NotWritten(path, "a page ends in .html, and a single picture may end in .svg")
            ]
