namespace LayerSkip

open System
open System.IO
open System.Text
open System.Text.Json

/// What a model may learn from: a text, all of it, or the response to a prompt that is only read.
[<RequireQualifiedAccess>]
type Lesson =
    | Text of string
    | Pair of prompt: string * response: string

/// How a lesson becomes ids.
type LessonMarks = {
    /// Put before a text.
    Bos: int option
    /// Put after it.
    Eos: int option
}

/// Texts and pairs in files.
[<RequireQualifiedAccess>]
module Texts =
    /// What parts the texts of a plain file.
    let separator = "<|endoftext|>"

    let private raiseBad path fault = raise (LayerSkipException [ LayerSkipError.BadFile(path, fault) ])

    let private openText (path: string) = new StreamReader(path, UTF8Encoding(false, true), false, 1 <<< 16)

    /// Reads a piece of a file that must be UTF-8.
    let private decoded (path: string) (read: unit -> 'T) : 'T =
        try
            read ()
        with :? DecoderFallbackException ->
            raiseBad path "is not UTF-8 text; convert it first"

    /// The texts between separators, without the white space around them.
    let private plain (path: string) : seq<Lesson> =
        seq {
            use reader = openText path
            let buffer = Array.zeroCreate<char>(1 <<< 16)
            let waiting = StringBuilder()
            let read () = decoded path (fun () -> reader.Read(buffer, 0, buffer.Length))
            let mutable count = read ()

            while count > 0 do
                waiting.Append(buffer, 0, count) |> ignore
                // A separator may lie across two pieces, so what follows the last one waits.
                let parts =
                    if Array.IndexOf(buffer, '>', 0, count) >= 0 then
                        waiting.ToString().Split separator
                    else
                        [||]

                if parts.Length > 1 then
                    yield! parts[.. parts.Length - 2] |> Seq.map Lesson.Text
                    waiting.Clear().Append(parts[parts.Length - 1]) |> ignore

                count <- read ()

            Lesson.Text(waiting.ToString())
        }
        |> Seq.choose (fun lesson ->
            match lesson with
            | Lesson.Text text when not (String.IsNullOrWhiteSpace text) -> Some(Lesson.Text(text.Trim()))
            | _ -> None)

    let private ofObject path (number: int) (root: JsonElement) : Lesson =
        let text (name: string) =
            match root.TryGetProperty name with
            | true, value when value.ValueKind = JsonValueKind.String -> Some(value.GetString())
            | _ -> None

        match text "text", text "prompt", (text "response" |> Option.orElse (text "completion")) with
        | Some whole, None, None -> Lesson.Text whole
        | None, Some prompt, Some response -> Lesson.Pair(prompt, response)
        | _ ->
            raiseBad
                path
                $"line {number} must be an object with \"text\", or with \"prompt\" and \"response\" (or \"completion\"), all strings"

    /// An object a line.
    let private jsonLines (path: string) : seq<Lesson> =
        seq {
            use reader = openText path
            let mutable number = 1
            let read () = decoded path reader.ReadLine
            let mutable line = read ()

            while not (isNull line) do
                if not (String.IsNullOrWhiteSpace line) then
                    let document =
                        try
                            JsonDocument.Parse line
                        with :? JsonException ->
                            raiseBad path $"line {number} is not valid JSON; each line holds one object"

                    use document = document

                    if document.RootElement.ValueKind <> JsonValueKind.Object then
                        raiseBad path $"line {number} is not a JSON object"

                    ofObject path number document.RootElement

                number <- number + 1
                line <- read ()
        }

    let isJsonLines (path: string) : bool =
        path.EndsWith(".jsonl", StringComparison.OrdinalIgnoreCase)
        || path.EndsWith(".ndjson", StringComparison.OrdinalIgnoreCase)

    /// Whether a file can be read at all.
    let check (path: string) : LayerSkipError list =
        if Directory.Exists path then
            [
                LayerSkipError.BadFile(path, "is a folder; give a text, .jsonl or token file")
            ]
        elif not (File.Exists path) then
            [ LayerSkipError.NotFound(path, "give a text, .jsonl or token file") ]
        elif FileInfo(path).Length = 0L then
            [ LayerSkipError.BadFile(path, "is empty; there is nothing to learn from") ]
        else
            []

    /// A file's lessons, as they are asked for. What is wrong with it is thrown, as LayerSkipException.
    let read (path: string) : seq<Lesson> = if isJsonLines path then jsonLines path else plain path

    /// The entries of a lesson: ids, and complements of those that are only read.
    let entries (tokenizer: Tokenizer) (marks: LessonMarks) (lesson: Lesson) : int[] =
        let encode = Tokenizer.encodeWith false false tokenizer
        let opening, closing = Option.toArray marks.Bos, Option.toArray marks.Eos

        match lesson with
        | Lesson.Text text -> Array.concat [ opening; encode text; closing ]
        | Lesson.Pair(prompt, response) ->
            let read = Array.append opening (encode prompt) |> Array.map (~~~)
            Array.concat [ read; encode response; closing ]
