namespace LayerSkip

open System
open System.IO
open System.IO.Compression
open System.Text
open System.Text.Json

/// Objects of a file of data, in its order: JSON lines, or one JSON array; gzip's packing is undone.
[<RequireQualifiedAccess>]
module internal Records =
    /// In bytes, unpacked: more is no set of questions.
    let private most = 1 <<< 30

    let private isGzip (bytes: byte[]) = bytes.Length > 2 && bytes[0] = 0x1Fuy && bytes[1] = 0x8Buy

    let private unpacked (path: string) (bytes: byte[]) : Result<byte[], LayerSkipError list> =
        try
            use packed = new GZipStream(new MemoryStream(bytes), CompressionMode.Decompress)
            use plain = new MemoryStream()
            let buffer = Array.zeroCreate<byte>(1 <<< 16)
            let mutable count = packed.Read(buffer, 0, buffer.Length)

            while count > 0 && plain.Length <= int64 most do
                plain.Write(buffer, 0, count)
                count <- packed.Read(buffer, 0, buffer.Length)

            if count > 0 then
                Check.bad path $"unpacks to more than {most} bytes; no set of questions has as many"
            else
                Ok(plain.ToArray())
        with :? InvalidDataException ->
            Check.bad path "is damaged gzip; get it again"

    /// What `read` makes of one object; a fault says where it stands, and what the file should be.
    let private ofObject path (form: string) (place: string) (read: JsonPart -> 'T) (root: JsonElement) =
        JsonPart.guard path (fun () ->
            if root.ValueKind = JsonValueKind.Object then
                Ok(read (JsonPart root))
            else
                Check.bad path "is no JSON object")
        |> Result.mapError (
            List.map (fun error ->
                match error with
                | LayerSkipError.BadFile(_, fault) ->
                    LayerSkipError.BadFile(path, $"{place}: {fault}; {form}")
                | other -> other)
        )

    /// What `read` makes of a text's root.
    let private parsed path form (place: string) (read: JsonElement -> 'T) (text: byte[]) =
        match Json.parse text with
        | Error fault -> Check.bad path $"{place}{fault}; {form}"
        | Ok document ->
            use document = document
            Ok(read document.RootElement)

    let private ofArray path form (text: byte[]) =
        text
        |> parsed path form "" (fun root -> [
            for index, item in Seq.indexed (root.EnumerateArray()) -> $"element {index + 1}", item.Clone()
        ])

    let private ofLines path form (text: byte[]) =
        (Encoding.UTF8.GetString text).Split '\n'
        |> Seq.indexed
        |> Seq.filter (fun (_, line) -> not (String.IsNullOrWhiteSpace line))
        |> Seq.map (fun (index, line) ->
            let place = $"line {index + 1}"
            Encoding.UTF8.GetBytes line
            |> parsed path form $"{place} is " (fun root -> place, root.Clone()))
        |> List.ofSeq
        |> Check.list

    let private isArray (text: byte[]) =
        text
        |> Array.skip (Utf8Text.markLength (ReadOnlySpan text))
        |> Array.tryFind (fun letter -> not (Char.IsWhiteSpace(char letter)))
        |> (=) (Some(byte '['))

    /// The values of a file with their places, which count from 1: "line 3", "element 3". `form` ends the sentence that tells of a
    /// file of another form: "lines of HumanEval have ...". Errors: a file that cannot be read; every line that is
    /// no JSON.
    let values (path: string) (form: string) : Result<(string * JsonElement) list, LayerSkipError list> =
        SourceFile.readAll path form
        |> Result.bind (fun bytes -> if isGzip bytes then unpacked path bytes else Ok bytes)
        |> Result.bind (fun text ->
            if not (Unicode.Utf8.IsValid(ReadOnlySpan text)) then
                Check.bad path $"is not UTF-8 text; {form}"
            elif isArray text then
                ofArray path form text
            else
                ofLines path form text)

    /// What `read` makes of each object. Errors: those of `values`, a file of none, and every object that is none of the form.
    let read (path: string) (form: string) (read: JsonPart -> 'T) : Result<'T list, LayerSkipError list> =
        values path form
        |> Result.bind (fun values ->
            if values.IsEmpty then
                Check.bad path $"holds nothing; {form}"
            else
                values |> List.map (fun (place, root) -> ofObject path form place read root) |> Check.list)
