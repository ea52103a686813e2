module LayerSkip.Tests.SafetensorsTests

open System
open System.IO
open Expecto
open FsCheck
open TorchSharp
open LayerSkip
open LayerSkip.Tests.Support
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.TensorSupport
open LayerSkip.Tests.SafetensorsFaultTests

let private dtypes = [| Dtype.F64; Dtype.F32; Dtype.F16; Dtype.BF16 |]

/// Any bits make a tensor, NaN included; only the sign and payload of NaN may change on the way.
let private tensorOf (seed: int) (index: int) : Tensor =
    let random = Random(seed * 31 + index)
    let shape = Array.init (random.Next 4) (fun _ -> int64 (random.Next 5))
    let dtype = dtypes[random.Next 4]
    let tensor = torch.empty (shape, dtype = ScalarType.ofDtype dtype)
    let values = Array.zeroCreate<byte>(int (tensor.numel ()) * Dtype.bytes dtype)
    random.NextBytes values
    Tensors.fill tensor (FillSpan(fun start span -> values.AsSpan(int start, span.Length).CopyTo span))
    tensor

let private ok result = Check.getOrRaise result

[<Tests>]
let properties =
    testList "safetensors" [
        testProperty "reads what it wrote, bit for bit"
        <| fun (seed: int) (NonNegativeInt count) (metadata: Map<NonNull<string>, NonNull<string>>) ->
            Backend.ensure ()
            use _scope = torch.NewDisposeScope()
            let tensors = [ for index in 0 .. count % 6 -> $"layer \"{index}\" é", tensorOf seed index ]
            // JSON holds no half of a surrogate pair.
            let clean (NonNull(text: string)) = String.filter (Char.IsSurrogate >> not) text
            let metadata = Map [ for KeyValue(key, value) in metadata -> clean key, clean value ]

            withFolder (fun folder ->
                let path = Path.Combine(folder, "model.safetensors")
                TensorWriter.safetensors path metadata tensors |> ok
                use opened = Safetensors.openFile path |> ok
                let data = 8L + BitConverter.ToInt64(File.ReadAllBytes path, 0)
                Expect.equal (data % 8L) 0L "data starts at 8 bytes"
                Expect.equal (Directory.GetFiles folder).Length 1 "nothing is left beside it"
                Expect.equal opened.Metadata metadata "metadata"
                let found = Map [ for tensor in opened.Tensors -> tensor.Name, tensor ]
                Expect.equal found.Count tensors.Length "all tensors"

                for name, tensor in tensors do
                    let read = Tensors.ofStored found[name]
                    Expect.equal found[name].Shape tensor.shape "shape"
                    Expect.equal read.shape tensor.shape "shape as read"
                    Expect.equal read.dtype tensor.dtype "dtype"
                    Expect.equal (bytesOf read) (bytesOf tensor) "values"

                    if tensor.dim () > 0L then
                        let half = tensor.shape[0] / 2L
                        let part = StoredTensor.rows half (tensor.shape[0] - half) found[name]
                        Expect.equal part.Shape[0] (tensor.shape[0] - half) "rows"
                        let expected = tensor.narrow (0L, half, tensor.shape[0] - half)
                        Expect.equal (bytesOf (Tensors.ofStored part)) (bytesOf expected) "some rows")

        testProperty "never throws on a changed byte"
        <| fun (NonNegativeInt at) (value: byte) ->
            let bytes = file small 10
            bytes[at % bytes.Length] <- value
            withBytes bytes (Safetensors.openFile >> isFault >> ignore)

        testCase "reports every truncation"
        <| fun () ->
            let bytes = file small 10
            Expect.isFalse (withBytes bytes (Safetensors.openFile >> isFault)) "whole"

            for length in 0 .. bytes.Length - 1 do
                Expect.isTrue (withBytes bytes[.. length - 1] (Safetensors.openFile >> isFault)) $"{length}"

        testCase "leaves no tensor behind"
        <| fun () ->
            Backend.ensure ()

            withBytes (file small 10) (fun path ->
                use opened = Safetensors.openFile path |> ok
                let before = TensorSupport.liveTensors ()

                for _ in 1..20 do
                    use _scope = torch.NewDisposeScope()

                    for tensor in opened.Tensors do
                        Tensors.ofStored tensor |> ignore

                Expect.equal torch.Tensor.TotalCount before "live tensors")

        testCase "reads beyond 4 GB"
        <| fun () ->
            Backend.ensure ()
            use _scope = torch.NewDisposeScope()
            let far = 5_000_000_000L

            let header =
                $"{{\"a\":{{\"dtype\":\"BF16\",\"shape\":[{far / 2L}],\"data_offsets\":[0,{far}]}},"
                + $"\"b\":{{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[{far},{far + 4L}]}}}}"

            withBytes (file header 0) (fun path ->
                // The hole takes no room on the disk.
                (use sparse = File.OpenWrite path
                 sparse.Seek(far, SeekOrigin.End) |> ignore
                 sparse.Write(BitConverter.GetBytes(1.5f).AsSpan()))

                use opened = Safetensors.openFile path |> ok
                let last = List.last opened.Tensors
                Expect.equal (Tensors.toFloats (Tensors.ofStored last)) [| 1.5 |] "the last value")

        testCase "reads nothing after it is closed"
        <| fun () ->
            Backend.ensure ()

            withBytes (file small 10) (fun path ->
                let opened = Safetensors.openFile path |> ok
                (opened :> IDisposable).Dispose()
                Expect.throwsT<ObjectDisposedException>
                    (fun () -> Tensors.ofStored opened.Tensors.Head |> ignore)
                    "closed")
    ]

[<Tests>]
let writing =
    let write name tensors =
        withFolder (fun folder -> TensorWriter.safetensors (Path.Combine(folder, name)) Map.empty tensors)

    testList "safetensors writing" [
        testCase "refuses whole numbers, and a name twice"
        <| fun () ->
            Backend.ensure ()
            use _scope = torch.NewDisposeScope()
            let found =
                write "m" [ "a", torch.zeros 2L; "a", torch.zeros 2L; "i", torch.arange 3L ] |> messages
            expectFault [ "tensor i"; "Int64"; "not supported" ] found
            expectFault [ "name a" ] found
        testCase "says where it cannot write"
        <| fun () ->
            Backend.ensure ()
            use _scope = torch.NewDisposeScope()
            write "absent/m" [ "a", torch.zeros 2L ]
            |> messages
            |> expectFault [ "absent"; "cannot be written" ]
        testCase "leaves a folder that is in the way as it is"
        <| fun () ->
            Backend.ensure ()
            use _scope = torch.NewDisposeScope()

            withFolder (fun folder ->
                Directory.CreateDirectory(Path.Combine(folder, "m")) |> ignore
                let found =
                    TensorWriter.safetensors (Path.Combine(folder, "m")) Map.empty [ "a", torch.zeros 2L ]
                expectFault [ "cannot be written" ] (messages found)
                Expect.isEmpty (Directory.GetFiles folder) "nothing is left")
        testCase "writes views, and tensors with gradients"
        <| fun () ->
            Backend.ensure ()
            use _scope = torch.NewDisposeScope()

            withFolder (fun folder ->
                let path = Path.Combine(folder, "m")
                let view = torch.arange(6.0).reshape(2L, 3L).t().requires_grad_()
                TensorWriter.safetensors path Map.empty [ "a", view ] |> ok
                use opened = Safetensors.openFile path |> ok
                Expect.equal
                    (Tensors.toFloats (Tensors.ofStored opened.Tensors.Head))
                    [| 0.0; 3.0; 1.0; 4.0; 2.0; 5.0 |]
                    "rows")
    ]

let private copy (source: string) (folder: string) (name: string) =
    File.Copy(source, Path.Combine(folder, name))

let private close (files: SafetensorsFile list) =
    for file in files do
        (file :> IDisposable).Dispose()

let private valuesOf (files: SafetensorsFile list) =
    Map [
        for file in files do
            for tensor in file.Tensors do
                use values = Tensors.ofStored tensor
                tensor.Name, (List.ofArray tensor.Shape, tensor.Format, bytesOf values)
    ]

[<Tests>]
let folders =
    let shards = [
        "tiny_llama-00001-of-00002.safetensors"
        "tiny_llama-00002-of-00002.safetensors"
    ]

    let faultsWith (files: (string * string) list) =
        withFolder (fun folder ->
            for name, text in files do
                File.WriteAllBytes(Path.Combine(folder, name), file text 0)

            Safetensors.openFolder folder |> messages)

    let index (text: string) folder =
        File.WriteAllText(Path.Combine(folder, "model.safetensors.index.json"), text)

    let indexFaults (text: string) (files: (string * string) list) =
        withFolder (fun folder ->
            index text folder

            for name, text in files do
                File.WriteAllBytes(Path.Combine(folder, name), file text 0)

            Safetensors.openFolder folder |> messages)

    let empty name = $"{{\"{name}\":{{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}}}"

    testList "safetensors folders" [
        sharedTest "shards hold what the single file holds" [ "tiny-llama" ] (fun source ->
            Backend.ensure ()

            withFolder (fun folder ->
                for name in shards do
                    copy (Path.Combine(source, name)) folder name

                copy
                    (Path.Combine(source, "tiny_llama.safetensors.index.json"))
                    folder
                    "model.safetensors.index.json"
                let sharded = Safetensors.openFolder folder |> ok
                use single = Safetensors.openFile (Path.Combine(source, "tiny_llama.safetensors")) |> ok
                Expect.equal sharded.Length 2 "shards"
                Expect.equal (valuesOf sharded) (valuesOf [ single ]) "values"
                close sharded))
        sharedTest "stories260K has its 260,032 parameters" [ "stories260K" ] (fun source ->
            let files = Safetensors.openFolder source |> ok

            let total =
                List.sum [
                    for file in files do
                        for tensor in file.Tensors -> Array.fold (*) 1L tensor.Shape
                ]
            Expect.equal total 260032L "parameters"
            let names = [
                for file in files do
                    for tensor in file.Tensors -> tensor.Name
            ]
            Expect.isFalse (List.contains "lm_head.weight" names) "tied"
            close files)
        testCase "no folder"
        <| fun () -> expectFault [ "absent"; "not found" ] (Safetensors.openFolder "absent" |> messages)
        testCase "an empty folder"
        <| fun () -> expectFault [ "model.safetensors: not found" ] (faultsWith [])
        testCase "a pytorch_model.bin alone"
        <| fun () -> expectFault [ "convert"; "safetensors" ] (faultsWith [ "pytorch_model.bin", "{}" ])
        testCase "two files without an index"
        <| fun () ->
            expectFault
                [ "2 .safetensors files" ]
                (faultsWith [ "a.safetensors", "{}"; "b.safetensors", "{}" ])
        testCase "the only file, whatever its name"
        <| fun () ->
            withFolder (fun folder ->
                File.WriteAllBytes(Path.Combine(folder, "adapter.safetensors"), file (empty "x") 0)
                let files = Safetensors.openFolder folder |> ok
                Expect.equal files.Head.Tensors.Head.Name "x" "name"
                close files)
        testCase "an index without a map"
        <| fun () -> expectFault [ "weight_map" ] (indexFaults "{}" [])
        testCase "a map to a number"
        <| fun () -> expectFault [ "weight_map"; "for a" ] (indexFaults """{"weight_map":{"a":1}}""" [])
        testCase "a map out of the folder"
        <| fun () ->
            expectFault
                [ "outside this folder" ]
                (indexFaults """{"weight_map":{"a":"../m.safetensors"}}""" [])
        testCase "shards that are not there, each"
        <| fun () ->
            let found = indexFaults """{"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}""" []
            expectFault [ "1.safetensors: not found" ] found
            expectFault [ "2.safetensors: not found" ] found
        testCase "a tensor that is not in its shard"
        <| fun () ->
            let found = indexFaults """{"weight_map":{"a":"1.safetensors"}}""" [ "1.safetensors", empty "b" ]
            expectFault [ "1.safetensors should hold tensor a" ] found
        testCase "a tensor in two shards"
        <| fun () ->
            let map = """{"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}"""
            let two =
                """{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"b":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"""
            let found = indexFaults map [ "1.safetensors", empty "a"; "2.safetensors", two ]
            expectFault [ "tensor a is in 1.safetensors and 2.safetensors" ] found
    ]
