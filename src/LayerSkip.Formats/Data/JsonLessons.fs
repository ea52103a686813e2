namespace LayerSkip

open System
open System.IO
open System.Text
open System.Text.Json
open System.Threading.Tasks

/// What a model may learn from: a text, all of it; the response to a prompt that is only read; the assistant's answers in a
/// conversation.
[<RequireQualifiedAccess>]
type Lesson =
    | Text of string
    | Pair of prompt: string * response: string
    | Chat of ChatLesson

[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module Lesson =
    /// What somebody wrote in it, in its order.
    let texts (lesson: Lesson) : string list =
        match lesson with
        | Lesson.Text text -> [ text ]
        | Lesson.Pair(prompt, response) -> [ prompt; response ]
        | Lesson.Chat chat -> chat.Messages |> List.map _.Content

/// Lessons as JSON objects: one a line, or in one array.
[<RequireQualifiedAccess>]
module internal JsonLessons =
    // Whatever else stands in an object is not read.
    let private deepest = 100_000

    let private fail path why = Check.throw (LayerSkipError.BadFile(path, why))

    /// Text of JSON, where it is Unicode: an escape may stand for half a character.
    let private tryUnescape (read: unit -> string) : string option =
        try
            Some(read ())
        with :? InvalidOperationException ->
            None

    let private quoted (names: string list) =
        let shown = names |> List.truncate 6 |> List.map (fun name -> $"\"{Printable.cut 40 name}\"")
        let rest = if names.Length > 6 then [ "..." ] else []
        String.concat ", " (shown @ rest)

    /// The lesson of one object; `place` says which, as "line 3".
    let private ofObject (path: string) (place: string) (root: JsonElement) : Lesson =
        if root.ValueKind <> JsonValueKind.Object then
            fail path $"{place} is not a JSON object"

        let fields = [
            for field in root.EnumerateObject() ->
                tryUnescape (fun () -> field.Name) |> Option.defaultValue "?", field.Value
        ]

        let text (name: string) : string option =
            match List.filter (fst >> (=) name) fields with
            | [ _, value ] when value.ValueKind = JsonValueKind.String ->
                match tryUnescape value.GetString with
                | Some text -> Some text
                | None ->
                    fail
                        path
                        $"{place} has half a character in \"{name}\" (as \\ud800 alone is one); repair it"
            | _ :: _ :: _ -> fail path $"{place} has \"{name}\" twice; leave one"
            | _ -> None

        let chat () =
            match
                fields
                |> List.filter (fun (name, value) ->
                    name = "messages" && value.ValueKind <> JsonValueKind.Null)
            with
            | [] -> None
            | [ _ ] ->
                try
                    Some(ChatLesson.read place (JsonPart root))
                with
                | JsonFault(part, why) -> fail path $"{place}: \"{part}\" {why}"
                // A JsonElement's own, of names that are no text.
                | :? InvalidOperationException ->
                    fail path $"{place} has half a character in a name; repair it"
            | _ -> fail path $"{place} has \"messages\" twice; leave one"

        let others = [ "text"; "prompt"; "response"; "completion" ] |> List.filter (text >> Option.isSome)

        match chat (), text "text", text "prompt", text "response", text "completion" with
        | Some chat, None, None, None, None -> Lesson.Chat chat
        | Some _, _, _, _, _ ->
            fail path $"{place} has \"messages\" and {quoted others}; leave one or the other"
        | None, Some whole, None, None, None -> Lesson.Text whole
        | None, None, Some prompt, Some response, None
        | None, None, Some prompt, None, Some response -> Lesson.Pair(prompt, response)
        | _ ->
            let found =
                if fields.IsEmpty then
                    "nothing"
                else
                    quoted (List.map fst fields)

            fail
                path
                $"{place} must be an object with \"text\", or with \"prompt\" and \"response\" (or \"completion\"), all strings, or with \"messages\"; it has {found}"

    let private ofLines (path: string) : seq<Lesson> =
        TextFile.lines path
        |> Seq.filter (fun (struct (_, line)) -> not (String.IsNullOrWhiteSpace line))
        |> Seq.map (fun (struct (number, line)) ->
            let document =
                try
                    JsonDocument.Parse(line, JsonDocumentOptions(MaxDepth = deepest))
                with :? JsonException ->
                    fail path $"line {number} is not valid JSON; each line holds one object"

            using document (fun document -> ofObject path $"line {number}" document.RootElement))

    let private ofArray (path: string) : seq<Lesson> =
        seq {
            use file = SourceFile.openOnce path "give a .json file" |> Check.getOrRaise

            let objects =
                JsonSerializer
                    .DeserializeAsyncEnumerable<JsonElement>(file, JsonSerializerOptions(MaxDepth = deepest))
                    .ToBlockingEnumerable()

            use each = objects.GetEnumerator()

            let isThere () =
                try
                    each.MoveNext()
                with
                | :? JsonException as e -> fail path $"{Json.place e}; repair the array, or get it again"
                | e when (ReadFault.why e).IsSome -> fail path (ReadFault.why e).Value

            let mutable number = 1

            while isThere () do
                ofObject path $"element {number}" each.Current
                number <- number + 1
        }

    let private isArray (path: string) =
        use reader = TextFile.openRead path

        while reader.Peek() >= 0 && Char.IsWhiteSpace(char (reader.Peek())) do
            reader.Read() |> ignore

        let front = Array.zeroCreate<char> 64
        let count = reader.ReadBlock(front, 0, front.Length)

        match SourceFile.page (ReadOnlySpan(Encoding.UTF8.GetBytes(front, 0, count))) with
        | Some page -> fail path page
        | None -> count > 0 && front[0] = '['

    /// A file's lessons, as they are asked for. What is wrong with it is thrown as LayerSkipException, with the line
    /// or the number of the object, from 1.
    let read (path: string) : seq<Lesson> = seq { yield! if isArray path then ofArray path else ofLines path }
