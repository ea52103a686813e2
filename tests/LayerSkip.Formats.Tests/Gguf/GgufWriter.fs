module LayerSkip.Tests.GgufWriter

open System
open System.Text

let u32 (value: uint32) = BitConverter.GetBytes value
let u64 (value: uint64) = BitConverter.GetBytes value
let f32 (value: float32) = BitConverter.GetBytes value

let text (value: string) =
    let bytes = Encoding.UTF8.GetBytes value
    Array.append (u64 (uint64 bytes.Length)) bytes

/// A metadata entry of one of GGUF's types, given its bytes.
let entry (key: string) (kind: uint32) (value: byte[]) = Array.concat [ text key; u32 kind; value ]

let entryInt key (value: int) = entry key 4u (u32 (uint32 value))
let entryFloat key (value: float32) = entry key 6u (f32 value)
let entryText key (value: string) = entry key 8u (text value)

let entryArray key (kind: uint32) (items: byte[] list) =
    entry key 9u (Array.concat (u32 kind :: u64 (uint64 items.Length) :: items))

/// A tensor as the file has it: fastest dimension first, ggml's number of the format, the offset in the data.
type Item = { Name: string; Dims: uint64 list; Kind: uint32; Offset: uint64; Data: byte[] }

let private aligned size = (size + 31) / 32 * 32

/// Items one after the other at multiples of 32 bytes.
let placed (items: (string * uint64 list * uint32 * byte[]) list) : Item list =
    let place (at: int) (name, dims, kind, data: byte[]) =
        { Name = name; Dims = dims; Kind = kind; Offset = uint64 at; Data = data }, at + aligned data.Length

    fst (List.mapFold place 0 items)

/// A whole file; the data of the last item is not padded.
let gguf (version: uint32) (entries: byte[] list) (items: Item list) : byte[] =
    let info (item: Item) =
        Array.concat [
            text item.Name
            u32 (uint32 item.Dims.Length)
            yield! List.map u64 item.Dims
            u32 item.Kind
            u64 item.Offset
        ]

    let front =
        Array.concat [
            "GGUF"B
            u32 version
            u64 (uint64 items.Length)
            u64 (uint64 entries.Length)
            yield! entries
            yield! List.map info items
        ]

    let start = aligned front.Length
    // An offset that a test made absurd comes without data.
    let items = items |> List.filter (fun item -> item.Data.Length > 0)
    let ends = [ for item in items -> start + int item.Offset + item.Data.Length ]
    let file = Array.zeroCreate (List.fold max front.Length ends)
    front.CopyTo(file, 0)

    for item in items do
        item.Data.CopyTo(file, start + int item.Offset)

    file

/// The least metadata of a model of 1 layer with 2 heads and 1 kv head.
let modelOf (hidden: int) (intermediate: int) (architecture: string) : byte[] list = [
    entryText "general.architecture" architecture
    entryInt $"{architecture}.block_count" 1
    entryInt $"{architecture}.embedding_length" hidden
    entryInt $"{architecture}.feed_forward_length" intermediate
    entryInt $"{architecture}.attention.head_count" 2
    entryInt $"{architecture}.attention.head_count_kv" 1
    entryInt $"{architecture}.context_length" 128
    entryFloat $"{architecture}.attention.layer_norm_rms_epsilon" 1e-5f
    entryInt $"{architecture}.vocab_size" 10
]

/// Hidden 64, and so heads of 32.
let model: string -> byte[] list = modelOf 64 96

/// Where a tensor's data starts in a sound file whose first tensor is `first`, by ggml's names.
let startOf (file: byte[]) (first: string) (name: string) : int =
    let mutable at = file.AsSpan().IndexOf(ReadOnlySpan(text first))
    let mutable found = 0

    for _ in 1 .. BitConverter.ToInt32(file, 8) do
        let size = BitConverter.ToInt32(file, at)
        let here = Encoding.UTF8.GetString(file, at + 8, size)
        let dims = BitConverter.ToInt32(file, at + 8 + size)
        at <- at + 8 + size + 4 + 8 * dims + 4 + 8

        if here = name then
            found <- BitConverter.ToInt32(file, at - 8)

    aligned at + found
