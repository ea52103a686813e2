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

    let private ofText path form read place (text: byte[]) =
        match Json.parse text with
        | Error fault -> Check.bad path $"{place} is {fault}; {form}"
        | Ok document ->
            use document = document
            ofObject path form place read document.RootElement

    let private ofArray path form read (text: byte[]) =
        match Json.parse text with
        | Error fault -> Check.bad path $"{fault}; {form}"
        | Ok document ->
            use document = document

            [
                for index, item in Seq.indexed (document.RootElement.EnumerateArray()) ->
                    ofObject path form $"element {index + 1}" read item
            ]
            |> Check.list

    let private ofLines path form read (text: byte[]) =
        (Encoding.UTF8.GetString text).Split '\n'
        |> Seq.indexed
        |> Seq.filter (fun (_, line) -> not (String.IsNullOrWhiteSpace line))
        |> Seq.map (fun (index, line) ->
            ofText path form read $"line {index + 1}" (Encoding.UTF8.GetBytes line))
        |> List.ofSeq
        |> Check.list

    let private isArray (text: byte[]) =
        text
        |> Array.skip (Utf8Text.markLength (ReadOnlySpan text))
        |> Array.tryFind (fun letter -> not (Char.IsWhiteSpace(char letter)))
        |> (=) (Some(byte '['))

    /// What `read` makes of each object. `form` ends the sentence that tells of a file of another form: "lines of HumanEval have
    /// ...". Errors: every object that is none of that form, with its line, or its place in the array, from 1.
    let read (path: string) (form: string) (read: JsonPart -> 'T) : Result<'T list, LayerSkipError list> =
        SourceFile.readAll path form
        |> Result.bind (fun bytes -> if isGzip bytes then unpacked path bytes else Ok bytes)
        |> Result.bind (fun text ->
            if not (Unicode.Utf8.IsValid(ReadOnlySpan text)) then
                Check.bad path $"is not UTF-8 text; {form}"
            elif isArray text then
                ofArray path form read text
            else
                ofLines path form read text)
        |> Result.bind (fun items ->
            if items.IsEmpty then
                Check.bad path $"holds nothing; {form}"
            else
                Ok items)
