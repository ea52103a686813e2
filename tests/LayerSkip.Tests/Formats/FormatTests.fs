module LayerSkip.Tests.FormatTests

open System
open Expecto
open TorchSharp
open LayerSkip
open LayerSkip.Kernels

Backend.ensure ()

let private address = Tensors.address

let private patterns = [| for i in 0..65535 -> uint16 i |]

/// A product of 16-bit weights with x, row after row.
let private product (format, kernels: IKernels) (weights: uint16[]) inner (x: float32[]) : float32[] =
    Scope.free (fun () ->
        let rows, outs = x.Length / inner, weights.Length / inner
        let weights = torch.tensor (Array.map int16 weights)
        let x, y = torch.tensor x, torch.empty ([| int64 (rows * outs) |], torch.ScalarType.Float32)
        kernels.Product(MatrixMemory(format, address weights, outs), inner, address x, address y, rows)
        y.data<float32>().ToArray())

/// What each pattern reads as where it stands at place `at` of weight rows of `inner`, x has `rows` rows, and every
/// other weight is zero. A row at a time, so that NaN stays in its own.
let private readAt kernels inner rows at : float32[] =
    let outs = 4096

    patterns
    |> Array.chunkBySize outs
    |> Array.collect (fun some ->
        let weights = Array.zeroCreate (outs * inner)
        some |> Array.iteri (fun out pattern -> weights[out * inner + at] <- pattern)
        let x = Array.init (rows * inner) (fun i -> if i % inner = at then 1.0f else 0.0f)
        let read = product kernels weights inner x |> Array.chunkBySize outs
        Expect.all
            read
            (fun row -> Array.forall2 (fun a b -> a.Equals b) row read[0])
            "each row of x reads the same"
        read[0])

/// A decoder's embedding of as many ids as there are patterns: hidden states [65536; 33], each row one pattern over.
let private embedded form format slow : float32[][] =
    let width = 33

    Scope.free (fun () ->
        let table =
            patterns
            |> Array.collect (fun pattern -> Array.create width (int16 pattern))
            |> torch.tensor
        let hidden = torch.empty ([| 65536L; int64 width |], torch.ScalarType.Float32)
        let shape = DecoderShape(width, 1, 1, 1, 2, 65536, 1e-5f, Windows = [||])
        let matrix = MatrixMemory(format, address table, 65536)
        let memory = DecoderMemory(matrix, 0n, matrix, [||])
        use pass = KernelForms.Of(form, slow).CreatePass(shape, memory)
        pass.Embed(ReadOnlySpan [| 0..65535 |], address hidden)
        hidden.data<float32>().ToArray() |> Array.chunkBySize width)

/// What a pattern means: .NET's value where it is finite. Beyond, where no weight that was loaded lies, bfloat16 keeps
/// its infinities and NaN; float16, whose exponent is moved and not looked at, goes on with 65536 to 131008.
let private meaning format (pattern: uint16) : float32 =
    match format with
    | WeightFormat.BFloat16 -> BitConverter.UInt32BitsToSingle(uint32 pattern <<< 16)
    | _ ->
        let value = BitConverter.UInt16BitsToHalf pattern

        if Half.IsFinite value then
            float32 value
        else
            let magnitude = 65536.0f * (1.0f + float32 (pattern &&& 0x3FFus) / 1024.0f)
            if pattern >= 0x8000us then -magnitude else magnitude

/// Equal values, or both NaN; zeros of either sign are the same weight.
let private expectMeaning (read: float32[]) (expected: float32[]) (place: string) =
    let strays =
        Array.zip3 patterns read expected
        |> Array.filter (fun (_, read, expected) -> not (read.Equals expected || read = expected))

    if strays.Length > 0 then
        let pattern, read, expected = strays[0]
        failtest $"{place}: {strays.Length} patterns, the first 0x{pattern:X4} is {read}, not {expected}"

let private tensor name (dtype: Dtype) (values: float[]) : StoredTensor = {
    Name = name
    Shape = [| 1L; int64 values.Length |]
    Format = Dtype.name dtype
    Dtype = dtype
    Blocks = None
    Fill =
        fun _ memory ->
            use _scope = torch.NewDisposeScope()
            let whole = (Tensors.ofFloats [| int64 values.Length |] values).``to``(ScalarType.ofDtype dtype)

            RawMemory.fill
                (FillSpan(fun start span -> whole.bytes.Slice(int start, span.Length).CopyTo span))
                memory
}

[<Tests>]
let tests =
    testSequenced
    <| testList "number formats" [
        for form in Enum.GetValues<KernelForm>() do
            for format, slow in
                [
                    WeightFormat.Float16, false
                    WeightFormat.Float16, true
                    WeightFormat.BFloat16, false
                ] do
                let name = $"{form}, {format}" + (if slow then " by integers" else "")

                testCase
                    $"{name}: each of the 65,536 patterns means the same in vector lanes and in row tails"
                    (fun () ->
                        let kernels = format, KernelForms.Of(form, slow)
                        let expected = Array.map (meaning format) patterns

                        // A vector's first and last place, and those after the last whole vector; 1 row goes through one
                        // tile, 5 and 9 through others, 17 and more through widened weights.
                        for rows in [ 1; 5; 9; 17; 20 ] do
                            for inner, at in [ 32, 0; 32, 31; 33, 0; 33, 32; 47, 46; 3, 1 ] do
                                expectMeaning
                                    (readAt kernels inner rows at)
                                    expected
                                    $"place {at} of {inner}, {rows} rows")

                testCase $"{name}: and in embeddings, in each place of a row" (fun () ->
                    let rows = embedded form format slow
                    let expected = Array.map (meaning format) patterns

                    for place in 0..32 do
                        expectMeaning (rows |> Array.map (fun row -> row[place])) expected $"place {place}")

        testCase
            "values that a narrower dtype cannot hold are faults that name the tensor and a dtype that can"
            (fun () ->
                let model: Tiny.Model = { Config = Tiny.config 24 2 2 1 false; Seed = 3L }
                use weights = Tiny.weights Dtype.F64 model

                let stored = [
                    for name, whole in Weights.named weights -> name, whole.shape, Tensors.toFloats whole
                ]

                // One value in one tensor of the model.
                let load culprit value (kept: Dtype) (asked: Dtype) =
                    let tensors = [
                        for name, shape, values in stored do
                            let values = Array.copy values

                            if name = culprit then
                                values[values.Length - 1] <- value

                            { tensor name kept values with Shape = shape }
                    ]

                    StoredWeights.load asked Device.Cpu model.Config tensors

                let up = "model.layers.1.mlp.up_proj.weight"

                for culprit, value, kept, asked, wider in
                    [
                        up, 65520.0, Dtype.F32, Dtype.F16, "bf16"
                        up, -1e30, Dtype.BF16, Dtype.F16, "bf16"
                        "model.embed_tokens.weight", 70000.0, Dtype.F64, Dtype.F16, "bf16"
                        "lm_head.weight", 3.4e38, Dtype.F32, Dtype.BF16, "f32"
                        up, 1e39, Dtype.F64, Dtype.F32, "f64"
                        up, 1e39, Dtype.F64, Dtype.BF16, "f64"
                        "model.norm.weight", 1e39, Dtype.F64, Dtype.F16, "f64"
                    ] do
                    load culprit value kept asked
                    |> FileSupport.messages
                    |> FileSupport.expectFault [ culprit; wider ]

                for kept, asked, value in
                    [
                        Dtype.F32, Dtype.F16, 65519.0
                        Dtype.F16, Dtype.F16, 65504.0
                        Dtype.F64, Dtype.BF16, 3e38
                        Dtype.BF16, Dtype.F32, 3e38
                        Dtype.F64, Dtype.F64, 1e300
                    ] do
                    use loaded = load up value kept asked |> Check.getOrRaise
                    Expect.equal loaded.Dtype asked "what fits is loaded")
    ]
