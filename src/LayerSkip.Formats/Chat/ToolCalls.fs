namespace LayerSkip

open System
open System.Text
open System.Text.Json

/// Calls of tools as models write them into their answers.
[<RequireQualifiedAccess>]
module ToolCalls =
    let private opening, closing = "<tool_call>", "</tool_call>"
    // Special tokens, which a text may have lost.
    let private pythonTag, mistralTag = "<|python_tag|>", "[TOOL_CALLS]"

    let private tryField (names: string list) (element: JsonElement) : JsonElement option =
        names
        |> List.tryPick (fun name ->
            match element.TryGetProperty name with
            | true, found -> Some found
            | _ -> None)

    /// The call that an object with "name" and "arguments", or "parameters", asks for.
    let private tryCall (element: JsonElement) : ToolCall option =
        if element.ValueKind <> JsonValueKind.Object then
            None
        else
            let text name =
                match tryField [ name ] element with
                | Some found when found.ValueKind = JsonValueKind.String -> Some(found.GetString())
                | _ -> None

            let arguments =
                match tryField [ "arguments"; "parameters" ] element with
                | Some found when found.ValueKind = JsonValueKind.Object -> Some(found.GetRawText())
                // Some write the object as a text.
                | Some found when found.ValueKind = JsonValueKind.String ->
                    match Json.parse (Encoding.UTF8.GetBytes(found.GetString())) with
                    | Ok inner when inner.RootElement.ValueKind = JsonValueKind.Object ->
                        Some(found.GetString().Trim())
                    | _ -> None
                | _ -> None

            match text "name", arguments with
            | Some name, Some arguments -> Some { Id = text "id"; Name = name; Arguments = arguments }
            | _ -> None

    /// The JSON values that stand at the beginning of a text, with ; , or white space between them, and what follows them.
    let private values (text: string) : JsonElement list * string =
        let bytes = Encoding.UTF8.GetBytes text
        let mutable at = 0
        let mutable isOpen = true

        let found = [
            while isOpen do
                while at < bytes.Length && (bytes[at] <= 32uy || bytes[at] = byte ';' || bytes[at] = byte ',') do
                    at <- at + 1

                let mutable reader = Utf8JsonReader(ReadOnlySpan(bytes, at, bytes.Length - at))
                let mutable document: JsonDocument = null

                let isValue =
                    at < bytes.Length
                    && (bytes[at] = byte '{' || bytes[at] = byte '[')
                    && (try
                            JsonDocument.TryParseValue(&reader, &document)
                        with :? JsonException ->
                            false)

                if isValue then
                    at <- at + int reader.BytesConsumed
                    document.RootElement
                else
                    isOpen <- false
        ]

        found, Encoding.UTF8.GetString(bytes, at, bytes.Length - at)

    /// Calls that a text consists of: objects one after the other, or a list of them. None where there is anything else.
    let private tryAll (text: string) : (ToolCall list * string) option =
        let found, rest = values text

        let elements =
            found
            |> List.collect (fun element ->
                if element.ValueKind = JsonValueKind.Array then
                    List.ofSeq (element.EnumerateArray())
                else
                    [ element ])

        match elements |> List.map tryCall |> Check.every with
        | Some(_ :: _ as calls) -> Some(calls, rest)
        | _ -> None

    /// Hermes' and Qwen's: an object between two tags. What is no call stays in the text.
    let private between (text: string) : string * ToolCall list =
        let kept = StringBuilder()
        let calls = ResizeArray<ToolCall>()
        let mutable at = 0
        let mutable start = text.IndexOf(opening, StringComparison.Ordinal)

        while start >= 0 do
            let inner = start + opening.Length
            // The end of a text may come before the tag's.
            let stop =
                match text.IndexOf(closing, inner, StringComparison.Ordinal) with
                | -1 -> text.Length
                | stop -> stop
            let after = min text.Length (stop + closing.Length)

            match tryAll text[inner .. stop - 1] with
            | Some(found, rest) when String.IsNullOrWhiteSpace rest ->
                kept.Append(text, at, start - at) |> ignore
                calls.AddRange found
            | _ -> kept.Append(text, at, after - at) |> ignore

            at <- after
            start <- text.IndexOf(opening, after, StringComparison.Ordinal)

        kept.Append(text, at, text.Length - at) |> ignore
        kept.ToString().Trim(), List.ofSeq calls

    /// The text of an answer without the calls in it, and the calls: those of Hermes and Qwen (`<tool_call>`), Llama 3.1 and later
    /// (an object with "name" and "parameters", perhaps behind `<|python_tag|>`) and Mistral (`[TOOL_CALLS]` and a list, or a name and
    /// `[ARGS]`). To be asked only where tools were given: an answer may be such JSON for another reason. What is no call, or a
    /// broken one, stays text.
    let read (text: string) : string * ToolCall list =
        let trimmed = text.Trim()

        let behind (tag: string) =
            match text.IndexOf(tag, StringComparison.Ordinal) with
            | -1 -> None
            | at -> Some(text[.. at - 1].Trim(), text[at + tag.Length ..])

        let named (before: string) (after: string) =
            // Later versions of Mistral's: name[ARGS]{...}, with the tag before each.
            after.Split mistralTag
            |> List.ofArray
            |> List.map (fun call ->
                match call.IndexOf("[ARGS]", StringComparison.Ordinal) with
                | -1 -> None
                | at ->
                    let name = (call[.. at - 1].Split "[CALL_ID]")[0]

                    match values call[at + 6 ..] with
                    | [ arguments ], rest when
                        arguments.ValueKind = JsonValueKind.Object && String.IsNullOrWhiteSpace rest
                        ->
                        Some { Id = None; Name = name.Trim(); Arguments = arguments.GetRawText() }
                    | _ -> None)
            |> Check.every
            |> Option.map (fun calls -> before, calls)

        let tagged (tag: string) =
            behind tag
            |> Option.bind (fun (before, after) ->
                match tryAll after with
                | Some(calls, rest) when String.IsNullOrWhiteSpace rest -> Some(before, calls)
                | _ when tag = mistralTag -> named before after
                | _ -> None)

        if text.Contains(opening, StringComparison.Ordinal) then
            between text
        else
            match tagged mistralTag |> Option.orElseWith (fun () -> tagged pythonTag), tryAll trimmed with
            | Some found, _ -> found
            | None, Some(calls, rest) when String.IsNullOrWhiteSpace rest -> "", calls
            | None, _ -> text, []
