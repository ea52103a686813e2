namespace LayerSkip

open System

/// Looks for stop strings in a text that comes in pieces, across the borders of tokens. What could still become
/// a stop string is held back.
type StopText = {
    Stops: string list
    Held: string
    /// Whether a stop string has ended the text.
    Matched: bool
}

[<RequireQualifiedAccess>]
module StopText =
    /// Nothing read yet; an empty stop string is none.
    let create (stops: string list) : StopText = {
        Stops = List.filter (fun stop -> stop <> "") stops
        Held = ""
        Matched = false
    }

    /// Where the earliest stop string starts.
    let private tryFind (stops: string list) (text: string) =
        stops
        |> List.map (fun stop -> text.IndexOf(stop, StringComparison.Ordinal))
        |> List.filter (fun at -> at >= 0)
        |> function
            | [] -> None
            | found -> Some(List.min found)

    /// How many characters at the end of the text begin some stop string.
    let private unfinished (stops: string list) (text: string) =
        let begins (stop: string) length =
            String.CompareOrdinal(text, text.Length - length, stop, 0, length) = 0

        stops
        |> Seq.collect (fun stop -> Seq.filter (begins stop) (seq { 1 .. min (stop.Length - 1) text.Length }))
        |> Seq.fold max 0

    /// The text that is certain after one more piece: up to a stop string, where one is complete.
    let push (piece: string) (state: StopText) : struct (string * StopText) =
        let text = state.Held + piece

        match tryFind state.Stops text with
        | Some at -> struct (text.Substring(0, at), { state with Held = ""; Matched = true })
        | None ->
            let certain = text.Length - unfinished state.Stops text
            struct (text.Substring(0, certain), { state with Held = text.Substring certain })
