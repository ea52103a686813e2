namespace LayerSkip

open System
open System.Text.Json

/// What a safetensors header says of one tensor; bytes count from the end of the header.
type internal SafetensorsEntry = {
    Name: string
    /// As the file spells it, "BF16".
    Format: string
    Shape: int64[]
    Start: int64
    End: int64
}

/// A header that was found good: its entries cover the data without gap or overlap.
type internal SafetensorsHeader = {
    Metadata: Map<string, string>
    /// In the order of their bytes.
    Entries: SafetensorsEntry list
    /// Where the data section starts in the file.
    Data: int64
}

/// Reading the header, and checking all that the format asks of it before a value is read.
[<RequireQualifiedAccess>]
module internal SafetensorsHeader =
    /// The header length that Hugging Face's library allows, in bytes.
    let largest = 100_000_000L

    /// The name that no tensor may have: an object of texts.
    let metadataKey = "__metadata__"
    /// The formats that we read, for the hint of an error.
    let readable = "F64, F32, F16 and BF16 are read"

    /// The format's name of a dtype.
    let formatOf (dtype: Dtype) : string = (Dtype.name dtype).ToUpperInvariant()

    /// The dtype of a format; None of those that hold no floating-point numbers of ours.
    let dtype (format: string) : Dtype option =
        Dtype.all |> List.tryFind (fun dtype -> formatOf dtype = format)

    /// Bytes of one value; None where they are not whole, or the format is unknown.
    let private bytesOf: string -> int64 option =
        let bytes =
            Map [
                for bytes, formats in
                    [
                        8L, "C64 I64 U64 F64"
                        4L, "I32 U32 F32"
                        2L, "I16 U16 F16 BF16"
                        1L, "BOOL I8 U8 F8_E4M3 F8_E5M2 F8_E8M0"
                    ] do
                    for format in formats.Split ' ' -> format, bytes
            ]

        bytes.TryFind

    /// Buffers that older checkpoints carry and no model here has as weights: they are left out.
    let isIgnored (name: string) : bool =
        [ ".rotary_emb.inv_freq"; ".masked_bias"; ".attn.bias" ] |> List.exists name.EndsWith

    let private twice (names: string seq) =
        names
        |> Seq.countBy id
        |> Seq.choose (fun (name, count) -> if count > 1 then Some name else None)

    let private names (json: JsonElement) = [ for property in json.EnumerateObject() -> property.Name ]

    /// A list of whole numbers of at least 0, or none.
    let private counts (json: JsonElement) : int64[] option =
        if json.ValueKind <> JsonValueKind.Array then
            None
        else
            let read (item: JsonElement) =
                match item.ValueKind = JsonValueKind.Number && item.TryGetInt64() |> fst with
                | true when item.GetInt64() >= 0L -> Some(item.GetInt64())
                | _ -> None

            Check.every [ for item in json.EnumerateArray() -> read item ] |> Option.map Array.ofList

    let private field (json: JsonElement) (name: string) =
        match json.TryGetProperty name with
        | true, value -> Some value
        | _ -> None

    let private entry (path: string) (dataLength: int64) (name: string) (json: JsonElement) =
        let bad text = Check.bad path $"tensor {name} {text}"

        if json.ValueKind <> JsonValueKind.Object then
            bad "is described by something other than an object"
        elif not (Seq.isEmpty (twice (names json))) then
            bad $"has the field \"{Seq.head (twice (names json))}\" twice"
        else
            let format =
                match field json "dtype" with
                | Some format when format.ValueKind = JsonValueKind.String -> Some(format.GetString())
                | _ -> None

            let list name = field json name |> Option.bind counts

            match format, list "shape", list "data_offsets" with
            | None, _, _ -> bad "has no \"dtype\" text"
            | _, None, _ -> bad "has no \"shape\" list of whole numbers of at least 0"
            | _, _, None -> bad "has no \"data_offsets\" list of whole numbers of at least 0"
            | Some format, Some shape, Some [| first; last |] ->
                let entry = { Name = name; Format = format; Shape = shape; Start = first; End = last }
                let fault text = LayerSkipError.BadFile(path, $"tensor {name} {text}")
                let needed =
                    bytesOf format
                    |> Option.map (fun width -> StoredTensor.tryProduct width (Array.map uint64 shape))
                let dims = shape |> Array.map string |> String.concat ", "

                let sizeFaults =
                    match needed with
                    | Some None -> [ fault $"has shape [{dims}], more than a file can hold" ]
                    | Some(Some needed) ->
                        Check.that
                            (first > last || last - first = needed)
                            (fault $"has {last - first} bytes, shape [{dims}] of {format} needs {needed}")
                    | None -> []

                let faults =
                    Check.that (first <= last) (fault $"has reversed data_offsets, {first} to {last}")
                    @ Check.that
                        (last <= dataLength)
                        (fault
                            $"needs bytes {first} to {last} of the data, which has {dataLength}: the file is truncated")
                    @ sizeFaults
                    @ Check.that
                        ((dtype format).IsSome || isIgnored name)
                        (LayerSkipError.WrongDtype(name, format, readable))

                Check.all faults entry
            | _, _, Some offsets -> bad $"has {offsets.Length} data_offsets, two are needed"

    /// The format forbids overlaps, and bytes that no tensor claims.
    let private layout (path: string) (dataLength: int64) (entries: SafetensorsEntry list) =
        let bad text = LayerSkipError.BadFile(path, text)

        let follow struct (reached, before) entry =
            let fault = [
                if entry.Start < reached then
                    bad $"tensors {before} and {entry.Name} overlap"
                elif entry.Start > reached then
                    bad $"bytes {reached} to {entry.Start} of the data belong to no tensor"
            ]

            fault, struct (max reached entry.End, entry.Name)

        let faults, struct (reached, _) = List.mapFold follow (struct (0L, "")) entries

        List.concat faults
        @ Check.that
            (reached >= dataLength)
            (bad $"bytes {reached} to {dataLength} of the data belong to no tensor")

    let private metadata (path: string) (json: JsonElement) =
        let isText (property: JsonProperty) = property.Value.ValueKind = JsonValueKind.String

        if json.ValueKind = JsonValueKind.Object && json.EnumerateObject() |> Seq.forall isText then
            Ok(
                Map [
                    for property in json.EnumerateObject() -> property.Name, property.Value.GetString()
                ]
            )
        else
            Check.bad path $"\"{metadataKey}\" must be an object of texts"

    let private ofRoot (path: string) (data: int64) (dataLength: int64) (root: JsonElement) =
        let doubled = [
            for name in twice (names root) -> LayerSkipError.BadFile(path, $"the name {name} is there twice")
        ]

        let entries =
            Check.list [
                for property in root.EnumerateObject() do
                    if property.Name <> metadataKey then
                        entry path dataLength property.Name property.Value
            ]
            |> Result.map (List.sortBy (fun entry -> entry.Start, entry.End))

        let metadata =
            match field root metadataKey with
            | Some json -> metadata path json
            | None -> Ok Map.empty

        match doubled, Check.both metadata entries with
        // Where an entry is bad, its bytes would be reported a second time as a hole.
        | [], Ok(metadata, entries) ->
            Check.all (layout path dataLength entries) { Metadata = metadata; Entries = entries; Data = data }
        | doubled, others -> Error(doubled @ Check.faults others)

    /// Reads and checks the header; all faults that do not follow from another are reported.
    let read (file: SourceFile) : Result<SafetensorsHeader, LayerSkipError list> =
        let bad text = Check.bad file.Path text

        if file.Length < 8L then
            bad $"not a safetensors file: {file.Length} bytes, the header's length alone takes 8"
        else
            let front = Array.zeroCreate<byte> 8
            file.Copy(0L, front.AsSpan())
            let length = BitConverter.ToUInt64(front, 0)

            if length > uint64 largest then
                bad $"not a safetensors file: a header of {length} bytes, {largest} are allowed"
            elif int64 length > file.Length - 8L then
                bad $"truncated: a header of {length} bytes at byte 8, the file ends at {file.Length}"
            else
                let bytes = Array.zeroCreate<byte>(int length)
                file.Copy(8L, bytes.AsSpan())

                match Json.parse bytes with
                | Error fault -> bad $"the header is {fault}"
                | Ok document ->
                    use document = document
                    let data = 8L + int64 length

                    if document.RootElement.ValueKind = JsonValueKind.Object then
                        ofRoot file.Path data (file.Length - data) document.RootElement
                    else
                        bad "the header is not a JSON object"
