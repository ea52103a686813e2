namespace LayerSkip

open System

/// A generated token as it is shown.
type ShownToken = {
    /// The piece of text that it made certain; may be empty.
    Text: string
    Id: int
    Origin: Origin
    /// The first layer from which on every layer would have chosen it, where that is known.
    Settled: int option
}

/// Generated text, coloured by where its tokens come from.
[<RequireQualifiedAccess>]
module TokenPlots =
    let private kinds = [
        Origin.Drafted, "drafted", "drafted by the early layers, and kept"
        Origin.LookedUp, "lookup", "what the text said before, and kept"
        Origin.Corrected, "corrected", "the whole model's, in place of a refused draft"
        Origin.Bonus, "bonus", "the whole model's, after a draft that it kept entirely"
        Origin.Plain, "plain", "a step without a draft"
        Origin.Prefill, "plain", "the first, from the pass over the prompt"
    ]

    let private kind (origin: Origin) =
        kinds
        |> List.pick (fun (this, kind, meaning) -> if this = origin then Some(kind, meaning) else None)

    let private span (token: ShownToken) : string =
        let kind, meaning = kind token.Origin
        let depth =
            token.Settled
            |> Option.map (fun layer -> $"; settled at layer {layer}")
            |> Option.defaultValue ""
        let mark = token.Settled |> Option.map (fun layer -> $"<sub>{layer}</sub>") |> Option.defaultValue ""
        let told = Page.escape $"id {token.Id}: {meaning}{depth}"
        let shown =
            if token.Text = "" then
                "·"
            else
                (Page.escape token.Text).Replace("\n", "↵<br/>")
        $"<span class=\"{kind}\" title=\"{told}\">{shown}{mark}</span>"

    /// The text after its prompt. The small numbers are the layers that tokens are settled at, where those are known.
    let coloured (title: string) (subtitle: string) (prompt: string) (tokens: ShownToken list) : PagePart =
        let counts = tokens |> List.countBy _.Origin |> Map.ofList

        let legend = [
            for origin, kind, meaning in kinds do
                match Map.tryFind origin counts with
                | Some count -> $"<span class=\"{kind}\">{count}</span> {meaning}"
                | None -> ()
        ]

        let shown = (Page.escape prompt).Replace("\n", "↵<br/>")
        let text = tokens |> List.map span |> String.Concat
        let legend = String.concat "&#160;&#160; " legend

        PagePart.Written(
            title,
            subtitle,
            $"<p class=\"sub tokens\">{legend}</p>\n<p class=\"tokens text\"><b>{shown}</b>{text}</p>",
            "Each box is a token; what the prompt gave is bold. Hover for its id and its story."
            + (if tokens |> List.exists _.Settled.IsSome then
                   " The small number is the first layer from which on every layer would have chosen it."
               else
                   "")
        )
