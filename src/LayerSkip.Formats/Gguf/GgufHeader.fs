namespace LayerSkip

open System
open System.Runtime.CompilerServices
open System.Runtime.InteropServices
open System.Text

/// A value of a GGUF file's metadata. A uint64 above the largest int64 keeps its bits. Numbers of 8 to 64 bits are
/// one case: readers ask for a range, not for a width.
[<RequireQualifiedAccess>]
type GgufValue =
    | Int of int64
    | Float of float
    | Bool of bool
    | Text of string
    | Ints of int64[]
    | Floats of float[]
    | Bools of bool[]
    | Texts of string[]

[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module internal GgufValue =
    /// The text, of a value that is one.
    let tryText (value: GgufValue) : string option =
        match value with
        | GgufValue.Text text -> Some text
        | _ -> None

/// What a GGUF file says of one tensor.
type internal GgufTensorInfo = {
    Name: string
    /// Fastest dimension first, as ggml counts.
    Dims: uint64[]
    /// ggml's number of the format.
    Type: uint32
    /// From the start of the data section.
    Offset: uint64
}

/// The front of a GGUF file.
type internal GgufHeader = {
    Metadata: Map<string, GgufValue>
    Infos: GgufTensorInfo[]
    /// Where the last entry ends; the data section starts at the next aligned byte.
    End: int64
}

/// Reads a file's little-endian values one after the other. After the first fault every read gives zero or nothing,
/// so that a parser runs on to its end without a check at each step.
[<Sealed>]
type internal ByteCursor(file: SourceFile) =
    let length = file.Length
    let mutable position = 0L
    let mutable fault: string option = None

    // The part of the file that is in memory.
    let mutable window = Array.zeroCreate<byte>(int (min length 262_144L))
    let mutable first, last = 0L, 0L

    let bring (size: int) =
        if size > window.Length then
            window <- Array.zeroCreate size

        first <- position
        last <- min length (position + int64 window.Length)
        file.Copy(first, window.AsSpan(0, int (last - first)))

    /// The byte that is read next, from the start of the file.
    member _.Position = position
    /// The first fault, which says where: later ones follow from it.
    member _.Fault = fault
    /// Whether what was read so far can be believed.
    member _.Sound = fault.IsNone
    /// What is being read, for messages.
    member val Reading = "the header" with get, set

    /// Keeps the first fault; none after it is heard.
    member _.Fail(text: string) =
        if fault.IsNone then
            fault <- Some text

    /// The next bytes, and past them; none where the file ends before.
    member this.Take(size: int) : ReadOnlySpan<byte> =
        if fault.IsSome then
            ReadOnlySpan.Empty
        elif int64 size > length - position then
            this.Fail
                $"truncated: {this.Reading} needs {size} bytes at byte {position}, the file ends at {length}"

            ReadOnlySpan.Empty
        else
            if position + int64 size > last then
                bring size

            let start = int (position - first)
            position <- position + int64 size
            ReadOnlySpan(window, start, size)

    /// One little-endian value.
    member this.Scalar<'T when 'T: unmanaged>() : 'T =
        let bytes = this.Take sizeof<'T>

        if bytes.IsEmpty then
            Unchecked.defaultof<'T>
        else
            Unsafe.ReadUnaligned<'T>(&MemoryMarshal.GetReference bytes)

    /// A count of things of `least` bytes or more each; 0 and a fault where the file cannot hold so many.
    member this.Count(what: string, least: int64, most: int64) : int =
        let at = position
        let count = this.Scalar<uint64>()

        if fault.IsNone && (count > uint64 most || count > uint64 ((length - position) / least)) then
            this.Fail
                $"{this.Reading} at byte {at} claims {count} {what}, more than the {length - position} bytes after it can hold: the file is damaged or truncated"

        if fault.IsSome then 0 else int count

    /// A uint64 length and so many bytes of UTF-8, 64 MiB at most; what is no UTF-8 becomes U+FFFD.
    member this.Text() : string =
        let size = this.Count("bytes of text", 1L, 1L <<< 26)
        Encoding.UTF8.GetString(this.Take size)

    /// So many values of one size, each through `convert`.
    member this.Values<'Raw, 'T when 'Raw: unmanaged>(convert: 'Raw -> 'T) : 'T[] =
        let count = this.Count("values", int64 sizeof<'Raw>, 1L <<< 24)
        Array.init count (fun _ -> convert (this.Scalar<'Raw>()))

    /// A uint64 count and so many texts.
    member this.Texts() : string[] =
        let count = this.Count("texts", 8L, 1L <<< 24)
        let texts = Array.create count ""
        let mutable index = 0

        while index < count && this.Sound do
            texts[index] <- this.Text()
            index <- index + 1

        texts

/// The header by docs/gguf.md's structs: gguf_header_t, gguf_metadata_kv_t, gguf_tensor_info_t. A count that the rest
/// of the file cannot hold is a fault before anything is allocated for it.
[<RequireQualifiedAccess>]
module internal GgufHeader =
    let private whole<'Raw when 'Raw: unmanaged> (convert: 'Raw -> int64) =
        (fun (cursor: ByteCursor) -> GgufValue.Int(convert (cursor.Scalar<'Raw>()))),
        (fun (cursor: ByteCursor) -> GgufValue.Ints(cursor.Values<'Raw, _> convert))

    let private real<'Raw when 'Raw: unmanaged> (convert: 'Raw -> float) =
        (fun (cursor: ByteCursor) -> GgufValue.Float(convert (cursor.Scalar<'Raw>()))),
        (fun (cursor: ByteCursor) -> GgufValue.Floats(cursor.Values<'Raw, _> convert))

    /// How one value of a type is read, and how an array of them, by the numbers of gguf_metadata_value_type. 9 is an array.
    let private types =
        Map [
            0u, whole<uint8> int64
            1u, whole<int8> int64
            2u, whole<uint16> int64
            3u, whole<int16> int64
            4u, whole<uint32> int64
            5u, whole<int32> int64
            6u, real<float32> float
            7u,
            ((fun cursor -> GgufValue.Bool(cursor.Scalar<uint8>() <> 0uy)),
             (fun cursor -> GgufValue.Bools(cursor.Values<uint8, _>((<>) 0uy))))
            8u,
            ((fun cursor -> GgufValue.Text(cursor.Text())), (fun cursor -> GgufValue.Texts(cursor.Texts())))
            10u, whole<uint64> int64
            11u, whole<int64> id
            12u, real<float> id
        ]

    let private value (cursor: ByteCursor) : GgufValue =
        let kind = cursor.Scalar<uint32>()
        let isArray = kind = 9u
        let kind = if isArray then cursor.Scalar<uint32>() else kind

        match types.TryFind kind with
        | Some(_, array) when isArray -> array cursor
        | Some(single, _) -> single cursor
        | None ->
            let what = if isArray then "is an array of" else "has"
            cursor.Fail $"{cursor.Reading} {what} the unknown type {kind}"
            GgufValue.Int 0L

    let private metadata (cursor: ByteCursor) (count: int) : Map<string, GgufValue> =
        let mutable entries = Map.empty
        let mutable index = 0

        while index < count && cursor.Sound do
            cursor.Reading <- $"metadata key {index + 1} of {count}"
            let key = cursor.Text()
            cursor.Reading <- $"metadata \"{key}\""
            let value = value cursor

            if cursor.Sound && Map.containsKey key entries then
                cursor.Fail $"the metadata key \"{key}\" is there twice"

            entries <- Map.add key value entries
            index <- index + 1

        entries

    let private info (cursor: ByteCursor) (index: int) (count: int) : GgufTensorInfo =
        cursor.Reading <- $"the entry of tensor {index + 1} of {count}"
        let name = cursor.Text()
        cursor.Reading <- $"the entry of tensor {name}"
        let rank = cursor.Scalar<uint32>()

        if rank > 4u then
            cursor.Fail $"tensor {name} has {rank} dimensions, GGUF allows 4"

        {
            Name = name
            Dims = Array.init (if cursor.Sound then int rank else 0) (fun _ -> cursor.Scalar<uint64>())
            Type = cursor.Scalar<uint32>()
            Offset = cursor.Scalar<uint64>()
        }

    let private infos (cursor: ByteCursor) (count: int) : GgufTensorInfo[] =
        let found = ResizeArray<GgufTensorInfo>()

        while found.Count < count && cursor.Sound do
            found.Add(info cursor found.Count count)

        found.ToArray()

    /// Magic and version, then the number of tensors and of metadata entries.
    let private start (cursor: ByteCursor) : struct (int * int) =
        let magic = cursor.Scalar<uint32>()

        if cursor.Sound && magic <> 0x46554747u then
            cursor.Fail "not a GGUF file: it does not start with \"GGUF\""

        let version = cursor.Scalar<uint32>()

        if cursor.Sound && (version = 0x02000000u || version = 0x03000000u) then
            cursor.Fail "a big-endian GGUF file is not supported; convert it to little-endian"
        elif cursor.Sound && version <> 2u && version <> 3u then
            cursor.Fail $"GGUF version {version} is not supported; 2 and 3 are"

        cursor.Reading <- "the number of tensors"
        let tensors = cursor.Count("tensors", 24L, 1L <<< 24)
        cursor.Reading <- "the number of metadata entries"
        let entries = cursor.Count("entries", 13L, 1L <<< 24)
        struct (tensors, entries)

    let private parse (file: SourceFile) (read: ByteCursor -> 'T) : Result<'T, LayerSkipError list> =
        let cursor = ByteCursor file
        let result = read cursor

        match cursor.Fault with
        | Some fault -> Check.bad file.Path fault
        | None -> Ok result

    /// The metadata alone: what follows it is not looked at.
    let readMetadata (file: SourceFile) : Result<Map<string, GgufValue>, LayerSkipError list> =
        parse file (fun cursor ->
            let struct (_, entries) = start cursor
            metadata cursor entries)

    /// Metadata and tensor entries. A key or magic that is wrong ends it: with a binary format one fault is all there
    /// is.
    let read (file: SourceFile) : Result<GgufHeader, LayerSkipError list> =
        parse file (fun cursor ->
            let struct (tensors, entries) = start cursor
            let metadata = metadata cursor entries
            let infos = infos cursor tensors
            { Metadata = metadata; Infos = infos; End = cursor.Position })
