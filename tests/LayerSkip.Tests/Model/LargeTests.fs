module LayerSkip.Tests.LargeTests

open System
open System.IO
open System.Text
open Expecto
open Microsoft.FSharp.NativeInterop
open TorchSharp
open LayerSkip
open LayerSkip.Tests.Tiny

#nowarn "9"

/// Skips where a test would take memory that is not there.
let private needs (gigabytes: float) =
    if float (Memory.free ()) < gigabytes * 1e9 then
        skiptest $"needs {gigabytes} GB of free memory"

/// A model file that takes no room on disk but for the rows that are given: (tensor, row, values).
let private sparse (path: string) (config: LlamaConfig) (rows: (string * int64 * float32[]) list) =
    let sizes =
        Weights.expected config
        |> List.map (fun (name, shape) -> name, shape, 2L * List.fold (*) 1L shape)
    let starts = sizes |> List.scan (fun start (_, _, size) -> start + size) 0L

    let entries =
        List.zip sizes (List.take sizes.Length starts)
        |> List.map (fun ((name, shape, size), start) ->
            let dims = shape |> List.map string |> String.concat ","
            $"\"{name}\":{{\"dtype\":\"BF16\",\"shape\":[{dims}],\"data_offsets\":[{start},{start + size}]}}")

    let header = "{" + String.concat "," entries + "}" |> Encoding.UTF8.GetBytes
    use file = File.Create path
    file.Write(BitConverter.GetBytes(uint64 header.Length).AsSpan())
    file.Write(header.AsSpan())
    file.SetLength(8L + int64 header.Length + List.last starts)

    for name, row, values in rows do
        let index = sizes |> List.findIndex (fun (found, _, _) -> found = name)
        let _, shape, _ = sizes[index]
        let width = shape.Tail |> List.fold (*) 1L
        file.Position <- 8L + int64 header.Length + starts[index] + 2L * row * width

        for value in values do
            file.Write(BitConverter.GetBytes(uint16 (BitConverter.SingleToUInt32Bits value >>> 16)).AsSpan())

let private withFile (body: string -> unit) =
    let path = Path.Combine(Path.GetTempPath(), $"layerskip-{Guid.NewGuid():N}.safetensors")

    try
        body path
    finally
        File.Delete path

[<Tests>]
let tests =
    testSequenced
    <| testList "large" [
        testCase
            "an embedding of more than 2 GiB loads, and its last row is read, written and chosen"
            (fun () ->
                needs 4.0

                let config = {
                    Tiny.config 524_296 2 2 1 true with
                        Hidden = 2048
                        Intermediate = 8
                        HeadDim = 8
                }

                let last = config.Vocabulary - 1
                let row = Array.init config.Hidden (fun i -> if i % 3 = 0 then 2.0f else -1.0f)
                let ones = Array.create config.Hidden 1.0f

                withFile (fun path ->
                    sparse path config [
                        "model.embed_tokens.weight", int64 last, row
                        "model.embed_tokens.weight", 7L, Array.map (fun x -> x / 2.0f) row
                        "model.norm.weight", 0L, ones
                    ]

                    use file = Safetensors.openFile path |> Check.getOrRaise
                    use weights =
                        StoredWeights.load Dtype.BF16 Device.Cpu config file.Tensors |> Check.getOrRaise
                    Expect.isGreaterThan (Weight.numel weights.Embedding * 2L) (1L <<< 31) "more than 2 GiB"

                    for strategy in [ Strategy.Autoregressive; Strategy.SelfSpeculative(exit 2 1, 2) ] do
                        let made =
                            Generation.complete weights None (options strategy 4) [| 7; last |]
                            |> Check.getOrRaise

                        Expect.equal made.TokenIds (Array.create 4 last) $"{strategy}"

                    let stored =
                        file.Tensors |> List.find (fun tensor -> tensor.Name = "model.embed_tokens.weight")
                    let front = NativePtr.ofNativeInt<uint16>(Tensors.address weights.Embedding.Tensor)
                    let value i = BitConverter.UInt32BitsToSingle(uint32 (NativePtr.get front 0) ||| i)
                    Expect.equal (value 0u) 0.0f "the first row is empty"
                    Expect.equal stored.Shape [| int64 config.Vocabulary; 2048L |] "as the file has it"))

        testCase "keys and values of more than 2 GiB a layer hold what a short cache holds" (fun () ->
            needs 3.0
            let far = 300_000

            // 8 KB a position and layer, of which nothing is touched but the last ones.
            let config = {
                Tiny.config 24 2 1024 1024 true with
                    HeadDim = 2
                    Context = Int32.MaxValue
                    Windows = Array.create 2 (Some 4)
            }

            // The last state follows from rows whose windows lie within these.
            let ids = [| 1; 5; 9; 2; 7; 3; 8; 8; 4; 1; 23; 6 |]
            use weights = Tiny.weights Dtype.BF16 { Config = config; Seed = 3L }

            let read start =
                Scope.free (fun () ->
                    let cache = Cache.create weights 1 (far + 100)
                    use _storage = cache.Slab :> IDisposable
                    let at (half: CacheHalf) = { half with Length = start }

                    // As if so many had been read: the window looks at none of them.
                    let stamp = cache.Slab.ClaimFor(start + 50, 0, cache.Early, cache.Late)
                    let cache = { cache with Stamp = stamp; Early = at cache.Early; Late = at cache.Late }
                    let keys = cache.Slab.Storage.Keys[0]

                    if start > 0 then
                        Expect.isGreaterThan
                            (keys.numel () * keys.ElementSize)
                            (1L <<< 31)
                            "more than 2 GiB"

                    let struct (hidden, cache) = Model.forward weights 1 ids cache
                    let struct (keys, _) = Cache.layer 1 cache
                    let values = keys.narrow (2L, int64 start, int64 ids.Length) |> Tensors.toFloats
                    Tensors.toFloats (hidden.Read()), values)

            // Angles differ by a turn that both sides of a product share.
            let (near, _), (distant, values) = read 0, read far

            for a, b in Seq.zip near distant do
                Expect.floatClose { absolute = 2e-2; relative = 2e-2 } b a "a state"

            Expect.exists values (fun value -> value <> 0.0) "what was written")

        testCase "weights that no memory holds are a fault, before anything is read" (fun () ->
            if not (OperatingSystem.IsLinux()) then
                skiptest "only Linux says what is free"

            let config = { Tiny.config (1 <<< 24) 2 2 1 true with Hidden = 1 <<< 20 }

            let stored = [
                for name, shape in Weights.expected config ->
                    {
                        Name = name
                        Shape = Array.ofList shape
                        Format = "BF16"
                        Dtype = Dtype.BF16
                        Fill = fun _ _ -> failtest "read"
                        Blocks = None
                    }
            ]

            match StoredWeights.load Dtype.BF16 Device.Cpu config stored with
            | Error [ LayerSkipError.NotEnoughMemory("the weights in bf16", bytes, _) ] ->
                Expect.equal bytes (2L * Weights.parameters config) "what they take"
            | other -> failtest $"{Result.mapError LayerSkipError.summary other |> Result.map ignore}")

        testCase "a tensor of more than 2 GiB is filled, checked and written to its last byte" (fun () ->
            needs 3.0
            let count = (1L <<< 31) / 2L + 5L

            Scope.free (fun () ->
                let tensor = torch.empty ([| count |], torch.ScalarType.BFloat16)
                let mutable reached = 0L

                Tensors.fill
                    tensor
                    (FillSpan(fun start destination ->
                        Expect.equal start reached "in order"
                        reached <- start + int64 destination.Length
                        destination.Clear()))

                Expect.equal reached (2L * count) "all of it"
                Expect.isTrue (Tensors.isFinite tensor) "zeros"
                tensor.narrow(0L, count - 1L, 1L).fill_(nan.ToScalar()) |> ignore
                Expect.isFalse (Tensors.isFinite tensor) "the last one counts"))
    ]
