namespace LayerSkip.Cli

open LayerSkip

/// A lens report as a table for a terminal: layers downwards, and as many of the last positions as there is room for.
[<RequireQualifiedAccess>]
module internal LensTable =
    /// Columns of a token's text.
    let private width = 8

    /// A token's text: its spaces and line ends can be seen, and what would steer a terminal is an escape.
    let private cell (text: string) : string =
        text.Replace(' ', '·').Replace('\n', '↵').Replace('\t', '⇥')
        |> Printable.line
        |> Columns.fit width

    let private left (layer: string) (agrees: string) (kl: string) = $"{layer, 7} {agrees, 7} {kl, 6}  "

    /// The table, in so many columns; colours where `terminal` has them.
    let text (terminal: Terminal) (room: int) (report: LensReport) : string =
        let count = report.Tokens.Length
        let fitting = max 1 ((room - (left "" "" "").Length) / (width + 1)) |> min count
        let positions = [ count - fitting .. count - 1 ]
        let line start cells = (start + String.concat " " cells).TrimEnd()
        let tokens place =
            positions |> List.map (place >> Option.map report.Text >> Option.defaultValue "" >> cell)

        let exit (exit: LensExit) =
            let shown position =
                let row = exit.Rows[position]
                let text = cell (report.Text row.Row.Argmax)

                if exit.Layer >= report.Settled[position] then
                    Terminal.green terminal text
                elif row.Row.Argmax = row.Final.Id then
                    Terminal.yellow terminal text
                else
                    text

            line
                (left (string exit.Layer) (Shown.percent exit.Agreement) (Shown.fixedPoint 2 exit.MeanKl))
                (List.map shown positions)

        let median = (Array.sort report.Settled)[(count - 1) / 2]
        let changed = report.Settled |> Array.filter ((=) report.Layers) |> Array.length

        String.concat "\n" [
            line (left "layer" "agrees" "KL") (tokens (fun position -> Some report.Tokens[position]))
            yield! report.Exits |> Seq.map exit
            line
                (left "settled" "" "")
                (positions |> List.map (fun position -> cell (string report.Settled[position])))
            line (left "text" "" "") (tokens (fun position -> Array.tryItem (position + 1) report.Tokens))
            ""
            if fitting < count then
                $"the last {fitting} of {count} positions, which fit {room} columns; --html F draws all of them, --json tells them"
            if terminal.Colour then
                let green, yellow = Terminal.green terminal "green", Terminal.yellow terminal "yellow"
                $"{green}: settled, from here down every layer says so; {yellow}: the last layer's token, not settled yet"
            "agrees: positions where the layer chooses the last layer's token; KL: its law from the last layer's, mean, in nats"
            $"half of the answers have settled after layer {median} of {report.Layers}; the last layer changes {Shown.percent (float changed / float count)} of them"
            match (Array.last report.Exits).CrossEntropy with
            | Some value ->
                $"cross entropy of the text after the last layer: {Shown.fixedPoint 3 value} nats a token"
            | None -> ()
        ]
