namespace LayerSkip.Server

open System
open LayerSkip

/// The text of an answer as it comes, without the calls of tools that it may hold: what could be the beginning of one is held back until it is
/// known. Immutable.
type internal ToolStream = private {
    /// All that has come.
    Text: string
    /// How much of that was let through.
    Told: int
    Watch: StopText
    /// Whether the rest is a call, as far as can be seen.
    IsHeld: bool
}

[<RequireQualifiedAccess>]
module internal ToolStream =
    // What the known families of models write before a call; see `ToolCalls.read`.
    let private marks = [ "<tool_call>"; "[TOOL_CALLS]"; "<|python_tag|>" ]

    /// Nothing has come.
    let start: ToolStream = { Text = ""; Told = 0; Watch = StopText.create marks; IsHeld = false }

    /// Some families write a call's JSON and nothing else: an answer that begins like that is held to its end.
    let private mayBeCall (text: string) : bool =
        let begun = text.TrimStart()
        begun = "" || begun[0] = '{' || begun[0] = '['

    /// What of a text with one more piece is certainly no call.
    let push (piece: string) (stream: ToolStream) : struct (string * ToolStream) =
        let text = stream.Text + piece

        if stream.IsHeld || stream.Told = 0 && mayBeCall text then
            struct ("", { stream with Text = text })
        else
            // What was held at first is watched with the piece that showed it to be text.
            let unwatched = text.Substring(stream.Told + stream.Watch.Held.Length)
            let struct (certain, watch) = StopText.push unwatched stream.Watch

            struct (certain,
                    {
                        Text = text
                        Told = stream.Told + certain.Length
                        Watch = watch
                        IsHeld = watch.Matched
                    })

    /// What is left of the text at its end, and the calls in it.
    let finish (stream: ToolStream) : string * ToolCall list =
        let rest = stream.Text.Substring stream.Told

        match Chat.toolCalls rest with
        | text, (_ :: _ as calls) -> text, calls
        | _, [] -> rest, []
