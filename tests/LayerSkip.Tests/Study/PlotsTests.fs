module LayerSkip.Tests.PlotsTests

open System
open System.IO
open System.Text.Json
open System.Xml.Linq
open Expecto
open FsCheck
open LayerSkip
open LayerSkip.Tests.FileSupport

/// A picture of every kind of mark, with such texts in every place that takes one.
let private pictures (text: string) : Picture list =
    let title = "t" + text
    let across, up = Axis.whole ("x" + text) "layers", Axis.share ("y" + text)

    let cells = {
        Values = [| [| 1.0; nan |]; [| 0.5; infinity |] |]
        Texts = [| [| text; text |]; [| ""; text |] |]
        Notes = [| [| text; text |]; [| ""; text |] |]
        Measure = "m" + text
        Colours = HeatColours.Around 0.7
        Range = None
    }

    [
        Picture.marks title text text across up [
            Mark.Line("line" + text, [ 1.0, 0.2; 2.0, nan; 3.0, 0.9 ])
            Mark.Steps("steps", [ 1.0, 0.1; 2.0, 0.4 ])
            Mark.Dots("dots", [ { X = 1.0; Y = 0.3; Note = text } ])
            Mark.Bars(text, [ 1.0, 0.5; 2.0, 0.6 ])
            Mark.Parts("part", [ 1.0, 0.5 ])
            Mark.Band("line" + text, [ 1.0, 0.1, 0.3; 3.0, 0.8, 1.0 ])
            Mark.Guide(text, [ 0.0, 0.0; 3.0, 1.0 ])
        ]
        Picture.heat title text text ("x", [ text; "b" ]) ("y", [ "a"; text ]) cells
        |> Picture.over [ Mark.Guide("guide", [ 0.0, 0.0; 1.0, 1.0 ]) ]
        Picture.marks title text "" (Axis.log "size" "bytes") (Axis.linear "time" "ms") [
            Mark.Line("none", [ 0.0, 1.0 ])
        ]
    ]

let private page text =
    [
        for picture in pictures text do
            PagePart.Drawn picture
        PagePart.Written("t" + text, text, "<p>ours</p>", text)
    ]
    |> Plots.html ("h" + text)

/// The page without what its script elements hold; and each script's tag with what it holds.
let private parted (html: string) : string * (string * string) list =
    let find (text: string) (from: int) = html.IndexOf(text, from, StringComparison.Ordinal)

    let rec next from (bare: string list) scripts =
        match find "<script" from with
        | -1 -> String.Concat(List.rev (html[from..] :: bare)), List.rev scripts
        | start ->
            let inside = find ">" start + 1
            let ends = find "</script>" inside
            next
                ends
                (html[from .. inside - 1] :: bare)
                ((html[start .. inside - 1], html[inside .. ends - 1]) :: scripts)

    next 0 [] []

let private figures (html: string) =
    snd (parted html)
    |> List.filter (fun (tag, _) -> tag.Contains "application/json")
    |> List.map (fun (_, json) -> JsonDocument.Parse(json).RootElement)

let private isAnything (text: string) =
    let html = page text
    let bare, scripts = parted html
    // Four parts: three drawn, each with its data, and the two scripts of the page.
    Expect.equal scripts.Length 5 "no text begins or ends a script"
    let document = XDocument.Parse bare
    let headings = [ for heading in document.Descendants(XName.Get "h2") -> heading.Value ]
    Expect.equal
        headings
        (List.replicate 4 ("t" + (Printable.text text).ReplaceLineEndings "\n"))
        "titles as they are"
    Expect.equal (figures html).Length 3 "each has its data"

    for picture in pictures text do
        XDocument.Parse(Plots.svg picture) |> ignore

[<Tests>]
let tests =
    testList "plots" [
        testProperty "whatever a text holds, the page and the SVG are well-formed and show it"
        <| fun (text: NonNull<string>) -> isAnything text.Get

        testCase "markup in a model's vocabulary or path is shown and not run" (fun () ->
            for text in
                [
                    "<script>alert(1)</script>"
                    "</script><b>"
                    "]]>"
                    "&amp;\"'"
                    "\u001b[31m\u202e"
                    "\ud800"
                ] do
                isAnything text

            let html = page "<img src=x onerror=alert(1)>"
            let bare, _ = parted html
            Expect.isFalse (bare.Contains "<img") "no element"

            // plotly.js reads tags in texts: there they are entities.
            for figure in figures html do
                Expect.isFalse (figure.GetRawText().Contains "\\u003Cimg") "no tag for plotly.js")

        testCase "a page loads nothing, and its policy forbids it" (fun () ->
            let bare, scripts = parted (page "")

            for loader in [ "http:"; "https:"; "//"; "src="; "href="; "url("; "@import" ] do
                Expect.isFalse (bare.Contains loader) loader

            for tag, script in scripts do
                Expect.isFalse (tag.Contains "src") tag

                if not (script.Contains "plotly.js v") then
                    Expect.isFalse (script.Contains "//") "our own script names no address"

            Expect.stringContains bare "default-src 'none'" "policy"
            let written = Plots.html "x" [ PagePart.Written("t", "", "<p/>", "") ]
            Expect.isLessThan written.Length 10_000 "plotly.js only where it draws")

        testCase "axes have titles and units, in both faces" (fun () ->
            let picture = (pictures "").Head
            let svg = Plots.svg picture
            let layout = (figures (page "")).Head.GetProperty "layout"

            for axis, label in [ "xaxis", "x (layers)"; "yaxis", "y (%)" ] do
                Expect.stringContains svg label "SVG"
                let title = layout.GetProperty(axis).GetProperty("title").GetProperty("text").GetString()
                Expect.equal title label "page"

            for name in [ "line"; "steps"; "dots"; "part" ] do
                Expect.stringContains svg $">{name}</text>" "in the legend"

            Expect.throwsT<ArgumentException>
                (fun () -> Axis.linear " " "ms" |> ignore)
                "an axis without a title"
            Expect.throwsT<ArgumentException>
                (fun () -> Picture.marks "" "" "" (Axis.share "x") (Axis.share "y") [] |> ignore)
                "a picture without a title")

        testCase "a table of another form than its axes is a bug" (fun () ->
            let cells = {
                Values = [| [| 1.0; 2.0 |] |]
                Texts = [||]
                Notes = [||]
                Measure = "m"
                Colours = HeatColours.Rising
                Range = None
            }

            Picture.heat "t" "" "" ("x", [ "a"; "b" ]) ("y", [ "c" ]) cells |> ignore
            Expect.throwsT<ArgumentException>
                (fun () -> Picture.heat "t" "" "" ("x", [ "a" ]) ("y", [ "c" ]) cells |> ignore)
                "one column of two")

        testProperty "an axis' lines lie within it, in order, and are few"
        <| fun (low: NormalFloat) (span: NormalFloat) ->
            // Beyond what is measured in milliseconds or bytes there is nothing to draw.
            let bounded (value: NormalFloat) = max -1e12 (min 1e12 value.Get)
            let low = bounded low
            let high = low + abs (bounded span)

            for axis in [ Axis.linear "x" ""; Axis.whole "x" ""; Axis.share "x" ] do
                let extent = Extent.ofValues axis false [ low; high ]
                let places = List.map fst extent.Ticks
                let slack = 1e-6 * (extent.High - extent.Low)
                Expect.isTrue (extent.Low <= low && high <= extent.High) "all values are within"
                Expect.isTrue
                    (places |> List.forall (fun at -> at >= extent.Low - slack && at <= extent.High + slack))
                    "within"
                Expect.equal places (List.sort places) "in order"
                Expect.isLessThan places.Length 16 "few"

        testCase "parts stand on one another, bars side by side" (fun () ->
            let drawn mark =
                let svg =
                    Picture.marks "t" "" "" (Axis.whole "x" "") (Axis.linear "y" "ms") [
                        mark ("a", [ 1.0, 2.0 ])
                        mark ("b", [ 1.0, 3.0 ])
                    ]
                    |> Plots.svg
                    |> XDocument.Parse

                [
                    for bar in svg.Descendants(XName.Get("rect", "http://www.w3.org/2000/svg")) do
                        let number (name: string) = float (bar.Attribute(XName.Get name).Value)

                        if
                            not (isNull (bar.Attribute(XName.Get "class")))
                            && bar.Attribute(XName.Get "class").Value.StartsWith "ls-f"
                            && number "width" > 12.0
                        then
                            number "x", number "y", number "width", number "height"
                ]

            match drawn Mark.Parts, drawn Mark.Bars with
            | [ ax, ay, _, _; bx, by, _, bh ], [ cx, _, cw, _; dx, _, _, _ ] ->
                Expect.equal ax bx "at one place"
                Expect.floatClose Accuracy.low (by + bh) ay "the second on the first"
                Expect.floatClose Accuracy.low (cx + cw) dx "side by side"
            | other -> failtest $"drawn: %A{other}")

        testCase "a picture is saved whole or not at all" (fun () ->
            withFolder (fun folder ->
                let path = Path.Combine(folder, "x.svg")
                let drawn = pictures "" |> List.map PagePart.Drawn
                Plots.save path "x" [ drawn.Head ] |> Check.getOrRaise
                XDocument.Load path |> ignore

                for path, parts in
                    [
                        path, drawn
                        Path.Combine(folder, "x.pdf"), drawn
                        Path.Combine(folder, "no", "x.html"), drawn
                    ] do
                    match Plots.save path "x" parts with
                    | Error [ fault ] ->
                        Expect.stringContains (LayerSkipError.message fault) (Path.GetFileName path) "named"
                    | other -> failtest $"%A{other}"

                Plots.save (Path.Combine(folder, "x.html")) "x" drawn |> Check.getOrRaise
                Expect.equal (Directory.GetFiles folder).Length 2 "nothing is left beside them"))
    ]
