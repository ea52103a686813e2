namespace LayerSkip

open System.IO
open System.Text

/// GGUF files, version 3. What `GgufHeader` reads and llama.cpp loads.
[<RequireQualifiedAccess>]
module internal GgufWriter =
    let private alignment = 32L

    let private aligned (size: int64) = (size + alignment - 1L) / alignment * alignment

    /// What llama.cpp has no kernels for.
    let unsupportedDtype = LayerSkipError.Unsupported("GGUF with f64 weights", "use dtype f32, f16 or bf16")

    let private text (out: BinaryWriter) (value: string) =
        let bytes = Encoding.UTF8.GetBytes value
        out.Write(uint64 bytes.Length)
        out.Write bytes

    let private items (out: BinaryWriter) (kind: uint32) (values: 'T[]) (write: 'T -> unit) =
        out.Write 9u
        out.Write kind
        out.Write(uint64 values.Length)
        Array.iter write values

    /// llama.cpp asks for uint32 where it reads a number, and int32 where it reads a list of them.
    let private value (out: BinaryWriter) (value: GgufValue) =
        match value with
        | GgufValue.Int number when 0L <= number && number <= 0xFFFFFFFFL ->
            out.Write 4u
            out.Write(uint32 number)
        | GgufValue.Int number ->
            out.Write 11u
            out.Write number
        | GgufValue.Float number ->
            out.Write 6u
            out.Write(float32 number)
        | GgufValue.Bool flag ->
            out.Write 7u
            out.Write flag
        | GgufValue.Text words ->
            out.Write 8u
            text out words
        | GgufValue.Ints numbers when numbers |> Array.forall (fun n -> n = int64 (int32 n)) ->
            items out 5u numbers (fun number -> out.Write(int32 number))
        | GgufValue.Ints numbers -> items out 11u numbers (fun number -> out.Write number)
        | GgufValue.Floats numbers -> items out 6u numbers (fun number -> out.Write(float32 number))
        | GgufValue.Bools flags -> items out 7u flags (fun flag -> out.Write flag)
        | GgufValue.Texts texts -> items out 8u texts (text out)

    let private header (metadata: (string * GgufValue) list) (tensors: TensorItem<GgufFormat> list) : byte[] =
        use memory = new MemoryStream()
        use out = new BinaryWriter(memory)
        out.Write "GGUF"B
        out.Write 3u
        out.Write(uint64 tensors.Length)
        out.Write(uint64 metadata.Length)

        for key, entry in metadata do
            text out key
            value out entry

        let mutable offset = 0L

        for item in tensors do
            text out item.Name
            out.Write(uint32 item.Shape.Length)
            Array.rev item.Shape |> Array.iter (uint64 >> out.Write)
            out.Write(GgufFormat.kind item.Format)
            out.Write(uint64 offset)
            offset <- aligned (offset + item.Size)

        memory.ToArray()

    // A FIFO has no position.
    let private pad (file: Stream) (written: int64) =
        file.Write(Array.zeroCreate<byte>(int (aligned written - written)))

    /// Writes metadata and tensors in their order, whole or not at all, and gives the number of bytes written. Shapes
    /// are turned around (ggml counts the fastest dimension first), values stay row after row, each tensor at a
    /// multiple of 32 bytes.
    let write
        (path: string)
        (metadata: (string * GgufValue) list)
        (tensors: TensorItem<GgufFormat> list)
        : Result<int64, LayerSkipError list> =
        let header = header metadata tensors

        AtomicFile.write path (fun file ->
            file.Write header
            pad file header.LongLength

            for item in tensors do
                item.Write file
                pad file item.Size)
        |> Result.map (fun () ->
            aligned header.LongLength + List.sumBy (fun item -> aligned item.Size) tensors)
