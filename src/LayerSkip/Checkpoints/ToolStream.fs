namespace LayerSkip

open System

/// The text of an answer as it comes, without the calls of tools that it may hold: what could be the beginning of one is held back until it is
/// known. Immutable; a piece costs no more than its own length, however long the answer is.
type ToolStream = private {
    /// What neither was let through nor is watched, in pieces, latest first.
    Pieces: string list
    Watch: StopText
    Part: ToolStreamPart
}

/// How far a stream has come.
and [<RequireQualifiedAccess>] private ToolStreamPart =
    /// Nothing but white space yet.
    | Blank
    | Text
    /// A call, as far as can be seen: the rest is held.
    | Call

/// Reads answers of models that may call tools, piece by piece.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module ToolStream =
    // What the known families of models write before a call; see `ToolCalls.read`.
    let private marks = [ "<tool_call>"; "[TOOL_CALLS]"; "<|python_tag|>" ]

    /// Nothing has come.
    let start: ToolStream = { Pieces = []; Watch = StopText.create marks; Part = ToolStreamPart.Blank }

    /// What has come and was not let through.
    let held (stream: ToolStream) : string = String.Concat(List.rev stream.Pieces) + stream.Watch.Held

    let private watch (piece: string) (stream: ToolStream) : struct (string * ToolStream) =
        let text = stream.Watch.Held + piece
        let struct (certain, watch) = StopText.push piece stream.Watch

        if watch.Matched then
            let call = text.Substring certain.Length
            struct (certain, { Pieces = [ call ]; Watch = watch; Part = ToolStreamPart.Call })
        else
            struct (certain, { Pieces = []; Watch = watch; Part = ToolStreamPart.Text })

    /// What of a text with one more piece is certainly no call.
    let push (piece: string) (stream: ToolStream) : struct (string * ToolStream) =
        let hold part = struct ("", { stream with Pieces = piece :: stream.Pieces; Part = part })

        match stream.Part with
        | ToolStreamPart.Call -> hold ToolStreamPart.Call
        | ToolStreamPart.Text -> watch piece stream
        | ToolStreamPart.Blank ->
            match piece.TrimStart() with
            | "" -> hold ToolStreamPart.Blank
            // Some families write a call's JSON and nothing else: an answer that begins like that is held to its end.
            | begun when begun[0] = '{' || begun[0] = '[' -> hold ToolStreamPart.Call
            | _ -> watch (held stream + piece) stream

    /// What is left of the text at its end, and the calls in it.
    let finish (stream: ToolStream) : string * ToolCall list =
        let rest = held stream

        match Chat.toolCalls rest with
        | text, (_ :: _ as calls) -> text, calls
        | _, [] -> rest, []
