namespace LayerSkip

open System
open System.IO
open System.Text
open System.Text.Json

/// Past texts that lie in files, for drafts of texts that repeat them: documents, code, conversations.
[<RequireQualifiedAccess>]
module PastTextFiles =
    /// Mi characters of a file.
    let private most = 64

    /// Folders in folders.
    let private deepest = 16

    let private ends (endings: string list) (path: string) =
        endings
        |> List.exists (fun ending -> path.EndsWith(ending, StringComparison.OrdinalIgnoreCase))

    /// The texts of a JSON value, whatever it is: its strings, but for single words, which are names and marks.
    let rec private strings (value: JsonElement) : string list =
        match value.ValueKind with
        | JsonValueKind.Object -> [
            for field in value.EnumerateObject() do
                yield! strings field.Value
          ]
        | JsonValueKind.Array -> [
            for item in value.EnumerateArray() do
                yield! strings item
          ]
        | JsonValueKind.String when value.GetString() |> Seq.exists Char.IsWhiteSpace -> [ value.GetString() ]
        | _ -> []

    let private parsed (text: string) (texts: JsonElement -> string list) : Result<string list, string> =
        Json.parse (Encoding.UTF8.GetBytes text)
        |> Result.mapError ignore
        |> Result.bind (fun document ->
            use document = document

            // An escape may stand for half a character.
            try
                Ok(texts document.RootElement)
            with :? InvalidOperationException ->
                Error())
        |> Result.mapError (fun () -> "is not valid JSON; each line holds one object")

    let private ofLines (path: string) : string list = [
        for struct (number, line) in TextFile.lines path do
            if not (String.IsNullOrWhiteSpace line) then
                match parsed line strings with
                | Ok texts -> yield! texts
                | Error why -> Check.throw (LayerSkipError.BadFile(path, $"line {number} {why}"))
    ]

    /// A conversation's messages; None of any other JSON, which is a text itself.
    let private messages (text: string) : string list option =
        let ofRoot (root: JsonElement) =
            match root.ValueKind with
            | JsonValueKind.Object ->
                match root.TryGetProperty "messages" with
                | true, messages -> strings messages
                | _ -> []
            | _ -> []

        parsed text ofRoot |> Result.toOption |> Option.filter (List.isEmpty >> not)

    /// A file's texts; what is wrong with it is thrown as LayerSkipException.
    let private textsOf (path: string) : string list =
        if ends [ ".jsonl"; ".ndjson" ] path then
            ofLines path
        else
            let text = TextFile.readAll most path

            if ends [ ".json" ] path then
                messages text |> Option.defaultValue [ text ]
            else
                [ text ]

    /// All files of a folder that are not hidden, in ordinal order.
    let private filesOf (folder: string) : string list =
        try
            Directory.GetFiles(
                folder,
                "*",
                EnumerationOptions(RecurseSubdirectories = true, MaxRecursionDepth = deepest)
            )
            |> Array.sortWith (fun a b -> String.CompareOrdinal(a, b))
            |> List.ofArray
        with e when (ReadFault.why e).IsSome ->
            Check.throw (LayerSkipError.BadFile(folder, (ReadFault.why e).Value))

    /// The texts of a path, and what was left out of a folder: files of other things lie in folders.
    let private read (path: string) : string list * string list =
        let isText (text: string) = not (String.IsNullOrWhiteSpace text)

        let texts, remarks =
            match PathKind.find path with
            | PathKind.Folder ->
                let found = [ for file in filesOf path -> Check.guard (fun () -> Ok(textsOf file)) ]

                let left = found |> List.choose (Check.faults >> List.tryHead)

                found |> List.choose Result.toOption |> List.concat,
                [
                    for first in List.truncate 1 left do
                        $"{left.Length} of {found.Length} files in {path} are no texts, and left out: {LayerSkipError.message first}"
                ]
            | _ -> textsOf path, []

        match List.filter isText texts with
        | [] -> Check.throw (LayerSkipError.BadFile(path, "holds no text; name a file or folder of texts"))
        | texts -> texts, remarks

    /// What can be said of paths before they are read.
    let check (paths: string list) : LayerSkipError list =
        paths
        |> List.filter (fun path -> PathKind.find path <> PathKind.Folder)
        |> List.collect (TextFile.check "a file or folder of texts")

    /// Past texts of up to `limit` tokens, the last ones where there are more, and what the user should know of them. A path is a UTF-8 text,
    /// a .jsonl file, of whose objects each string is one, a conversation in JSON, or a folder with such files, at any depth. Errors: a path
    /// that is not there or holds no text, a file that is named and is no text, a model without a tokenizer.
    let load
        (limit: int)
        (checkpoint: Checkpoint)
        (paths: string list)
        : Result<PastTexts * string list, LayerSkipError list> =
        Checkpoint.tokenizer checkpoint
        |> Result.bind (fun tokenizer ->
            paths
            |> List.map (fun path -> Check.guard (fun () -> Ok(read path)))
            |> Check.list
            |> Result.map (fun found ->
                let past = PastTexts limit
                let mutable count = 0L

                for text in List.collect fst found do
                    // What looks like a special token in a text is characters.
                    let ids = Tokenizer.encodeContinuing false tokenizer text
                    count <- count + int64 ids.Length
                    past.Add(ReadOnlySpan ids)

                past,
                [
                    yield! List.collect snd found
                    if count > int64 past.Count then
                        $"the past texts have {count} tokens, of which the last {past.Count} are kept"
                ]))
