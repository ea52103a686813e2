namespace LayerSkip

open System
open System.IO
open System.IO.Compression
open System.Net

/// A part of a page.
[<RequireQualifiedAccess>]
type PagePart =
    /// Drawn by plotly.js, under its title and subtitle, over its caption.
    | Drawn of Picture
    /// HTML of our own making under a title and a subtitle, over a caption: whatever comes from models or files in it is escaped.
    | Written of title: string * subtitle: string * html: string * caption: string

/// Pages that hold all they need: one file, no net.
[<RequireQualifiedAccess>]
module internal Page =
    let escape (text: string) : string = WebUtility.HtmlEncode(Printable.text text)

    /// plotly.js, as its authors made it, with their licence (MIT) in its first line.
    let private plotly =
        lazy
            (use packed = Embedded.stream "plotly.min.js.gz"
             use script = new StreamReader(new GZipStream(packed, CompressionMode.Decompress))
             // A script element ends at the first such tag, wherever it stands.
             script.ReadToEnd().Replace("</script", "<\\/script"))

    // Nothing is loaded, whatever the page holds.
    let private policy =
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"

    let private style = lazy (Embedded.text "page.css")

    let private script =
        let theme (back: string) ink soft grid pick =
            let series =
                PlotColour.series
                |> List.mapi (fun i pair -> $"series{i}:\"{pick pair}\",series{i}soft:\"{pick pair}38\"")
                |> String.concat ","
            $"{{back:\"{back}\",ink:\"{ink}\",soft:\"{soft}\",grid:\"{grid}\",{series}}}"

        let light = theme "#ffffff" "#1c1e21" "#5c626b" "#dfe2e6" fst
        let dark = theme "#16181c" "#e6e6e6" "#a8adb5" "#33373e" snd

        $"const light={light},dark={dark};"
        + """
const night = matchMedia("(prefers-color-scheme: dark)");
function draw() {
  const theme = night.matches ? dark : light;
  for (const chart of document.querySelectorAll(".chart")) {
    const named = (key, value) => /color$/.test(key) && theme[value] || value;
    const figure = JSON.parse(chart.nextElementSibling.textContent, named);
    Object.assign(figure.layout, {
      paper_bgcolor: theme.back, plot_bgcolor: theme.back, font: { family: "Helvetica, Arial, sans-serif", size: 13, color: theme.ink },
      margin: { l: 60, r: 24, t: 12, b: 56 }, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
      hoverlabel: { bgcolor: theme.back, bordercolor: theme.soft, font: { color: theme.ink }, align: "left" } });
    Plotly.react(chart.firstElementChild, figure.data, figure.layout, { responsive: true, displaylogo: false });
  }
}
night.addEventListener("change", draw);
draw();
"""

    let private part (part: PagePart) : string =
        let figure title subtitle body caption =
            let under =
                if subtitle = "" then
                    ""
                else
                    $"<p class=\"sub\">{escape subtitle}</p>"
            $"<figure>\n<h2>{escape title}</h2>\n{under}\n{body}\n<figcaption>{escape caption}</figcaption>\n</figure>"

        match part with
        | PagePart.Written(title, subtitle, html, caption) -> figure title subtitle html caption
        | PagePart.Drawn picture ->
            let wide =
                if picture.Width > 900 then
                    $" style=\"min-width:{picture.Width}px\""
                else
                    ""
            // Its JSON has no "<": it cannot end the element.
            let data = $"<script type=\"application/json\">{PlotlyFigure.json picture}</script>"
            figure
                picture.Title
                picture.Subtitle
                $"<div class=\"chart\"><div{wide}></div></div>{data}"
                picture.Caption

    /// A whole page.
    let html (title: string) (parts: PagePart list) : string =
        let isDrawn part =
            match part with
            | PagePart.Drawn _ -> true
            | PagePart.Written _ -> false

        let scripts =
            if List.exists isDrawn parts then
                $"<script>{plotly.Value}</script>\n<script>{script}</script>\n"
            else
                ""

        let body = parts |> List.map part |> String.concat "\n"

        $"<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n<meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\"/>\n"
        + $"<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>{escape title}</title>\n<style>\n{style.Value}</style>\n</head>\n"
        + $"<body>\n<h1>{escape title}</h1>\n{body}\n<footer>LayerSkip.FSharp</footer>\n{scripts}</body>\n</html>\n"
