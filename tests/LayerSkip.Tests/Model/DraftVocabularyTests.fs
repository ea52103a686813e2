module LayerSkip.Tests.DraftVocabularyTests

open System
open Expecto
open FsCheck
open TorchSharp
open LayerSkip
open LayerSkip.Kernels
open LayerSkip.Tests.Support
open LayerSkip.Tests.Tiny

/// A text over a cache: its last rows' hidden states, and a draft vocabulary of the cache.
let private withText (weights: Weights) (ids: int[]) capacity body =
    Scope.free (fun () ->
        let cache = Cache.create weights 1 (ids.Length + 4)
        use _storage = cache.Slab :> IDisposable
        let vocabulary = DraftVocabulary.create capacity cache
        let struct (hidden, _) = Model.forward weights ids.Length ids cache
        body hidden vocabulary)

/// The logits of the whole head at some ids, [rows][ids].
let private wholeAt (ids: int[]) (hidden: Hidden) =
    Model.logits hidden
    |> Logits.toFloats
    |> Array.map (fun row -> ids |> Array.map (Array.get row))

let private narrow vocabulary hidden = Model.narrowLogits vocabulary hidden |> Logits.toFloats

let private refuses (part: string) (body: unit -> 'T) =
    let message =
        try
            body () |> ignore
            "nothing"
        with
        | :? ArgumentException as e -> e.Message
        | :? InvalidOperationException as e -> e.Message

    Expect.stringContains message part "the fault"

let private model = { Config = Tiny.config 24 3 4 2 true; Seed = 5L }

/// Through the kernels, and through libtorch alone.
let private paths = [ "kernels", Dtype.F32; "libtorch", Dtype.F64 ]

[<Tests>]
let tests =
    testSequenced
    <| testList "a draft vocabulary" [
        for dtype in [ Dtype.F32; Dtype.F16; Dtype.BF16; Dtype.F64 ] do
            testPropertyWithConfig (Tiny.settings 20) $"{dtype}: its logits are the whole head's at its ids"
            <| fun (case: Case) (wanted: byte[]) (more: byte[]) ->
                use weights = Tiny.weights dtype case.Model
                let some (ids: byte[]) = ids |> Array.map (fun id -> int id % 24)
                let wanted = Array.append [| 7 |] (some wanted)

                withText weights case.Prompt 12 (fun hidden empty ->
                    let first = DraftVocabulary.add wanted empty
                    let second = DraftVocabulary.add (some more) first

                    for ids, vocabulary in
                        [ wanted, first; Array.append wanted (some more), second; wanted, first ] do
                        let expected = Array.distinct ids |> Array.truncate 12
                        Expect.equal
                            (DraftVocabulary.ids vocabulary)
                            expected
                            "in the order in which they came"
                        let found, whole = narrow vocabulary hidden, wholeAt expected hidden

                        if dtype = Dtype.F64 then
                            for found, whole in Array.zip found whole do
                                Array.iter2
                                    (fun a b -> Expect.floatClose Accuracy.high a b "near")
                                    found
                                    whole
                        else
                            Expect.equal found whole "bit for bit")

        for name in [ "Q4_K_M"; "Q8_0"; "IQ4_NL" ] do
            sharedTest
                $"{name}: of weights in blocks too, and through libtorch"
                [ "quants"; $"{name}.gguf" ]
                (fun path ->
                    let ids = [| 1; 17; 4; 200; 33 |]

                    let found (weights: Weights) =
                        withText weights [| 1; 5; 9 |] 8 (fun hidden empty ->
                            struct (narrow (DraftVocabulary.add ids empty) hidden, wholeAt ids hidden))

                    for compute in Compute.all do
                        use model =
                            Checkpoint.load path None Device.Cpu
                            |> Result.map (Checkpoint.withCompute compute)
                            |> Check.getOrRaise

                        let struct (narrow, whole) = found model.Weights
                        Expect.equal narrow whole $"{compute}: bit for bit"
                        let struct (narrow, whole) = found (Weights.withoutKernels model.Weights)

                        for narrow, whole in Array.zip narrow whole do
                            Array.iter2
                                (fun a b -> Expect.floatClose Accuracy.medium a b "near")
                                narrow
                                whole)

        for name, dtype in paths do
            testCase $"{name}: of equal logits the lowest id, wherever it stands" (fun () ->
                // A head of three different rows: ids that leave the same remainder have equal logits.
                use weights =
                    Tiny.weights dtype { model with Config = { model.Config with TiedHead = false } }

                Scope.free (fun () ->
                    for id in 3L .. 23L do
                        weights.Head.Tensor[id].copy_(weights.Head.Tensor[id % 3L]) |> ignore)

                withText weights [| 3; 1; 4; 1; 5 |] 24 (fun hidden empty ->
                    let vocabulary = DraftVocabulary.add [| 23; 22; 21; 9; 5; 19; 12; 8; 4 |] empty
                    let lowest = Map [ 0, 9; 1, 4; 2, 5 ]
                    let whole = Model.logits hidden |> Logits.argmax
                    let narrow = Model.narrowLogits vocabulary hidden
                    let expected = whole |> Array.map (fun id -> lowest[id])
                    Expect.equal
                        (DraftVocabulary.argmax vocabulary narrow)
                        expected
                        "the lowest of its kind"

                    for row, struct (id, share) in Array.indexed (DraftVocabulary.choices vocabulary narrow) do
                        Expect.equal id expected[row] "its choice too"
                        let law = Logits.toFloats narrow |> Array.item row |> Sampling.softmax
                        Expect.isLessThan
                            (abs (share - Array.max law))
                            1e-6
                            "and its probability among them"))

            testCase $"{name}: the likeliest of a row, of equal ones the first" (fun () ->
                use weights = Tiny.weights dtype model

                withText weights [| 3; 1; 4 |] 24 (fun hidden _ ->
                    let logits = Model.logits hidden

                    for row, values in Array.indexed (Logits.toFloats logits) do
                        let expected = [| 0..23 |] |> Array.sortBy (fun id -> -values[id], id)

                        for count in [ 1; 5; 24; 30 ] do
                            let found = Logits.largest count row logits
                            Expect.equal found (Array.truncate count expected) $"{count} of row {row}"))

            testCase $"{name}: what it refuses" (fun () ->
                use weights = Tiny.weights dtype model

                withText weights [| 3; 1; 4 |] 4 (fun hidden empty ->
                    refuses "no id yet" (fun () -> Model.narrowLogits empty hidden)
                    refuses "outside the vocabulary" (fun () -> DraftVocabulary.add [| 24 |] empty)
                    refuses "outside the vocabulary" (fun () -> DraftVocabulary.renew [| -1 |] empty)
                    let first = DraftVocabulary.add [| 1; 2 |] empty
                    refuses "overtaken" (fun () -> DraftVocabulary.add [| 5 |] empty)
                    Expect.equal (DraftVocabulary.add [| 2; 1 |] first).Count 2 "it has these"
                    let full = DraftVocabulary.add [| 5; 6; 7 |] first
                    Expect.equal (DraftVocabulary.ids full) [| 1; 2; 5; 6 |] "as many as there is room for"
                    Expect.isFalse (DraftVocabulary.contains 5 first) "not yet"
                    Expect.isTrue (DraftVocabulary.contains 5 full) "now"
                    let renewed = DraftVocabulary.renew [| 9; 8 |] full
                    Expect.equal (DraftVocabulary.ids renewed) [| 9; 8 |] "these alone"

                    for found, whole in Array.zip (narrow renewed hidden) (wholeAt [| 9; 8 |] hidden) do
                        Array.iter2
                            (fun a b -> Expect.floatClose Accuracy.high a b "their logits")
                            found
                            whole

                    refuses "renewed" (fun () -> Model.narrowLogits full hidden)
                    refuses "renewed" (fun () -> DraftVocabulary.add [| 5 |] full)

                    withText weights [| 3; 1 |] 4 (fun other _ ->
                        refuses "another cache's" (fun () -> Model.narrowLogits renewed other))))

            testCase $"{name}: a law over its ids is one over the vocabulary" (fun () ->
                use weights = Tiny.weights dtype model

                withText weights [| 3 |] 4 (fun _ empty ->
                    let law =
                        DraftVocabulary.add [| 20; 2 |] empty |> DraftVocabulary.scatter [| 0.25; 0.75 |]
                    let expected =
                        Array.init 24 (fun id ->
                            if id = 20 then 0.25
                            elif id = 2 then 0.75
                            else 0.0)
                    Expect.equal law expected "0 elsewhere"))

            testCase $"{name}: its memory goes with the cache, and is not read afterwards" (fun () ->
                use weights = Tiny.weights dtype model
                let logits hidden empty = narrow (DraftVocabulary.add [| 1; 2 |] empty) hidden |> ignore

                // A pass keeps room for what it was asked, and is used again.
                withText weights [| 3; 1; 4 |] 4 logits
                let tensors, floats = TensorSupport.liveTensors (), TensorSupport.liveFloats ()

                for _ in 1..3 do
                    let kept =
                        withText weights [| 3; 1; 4 |] 4 (fun hidden empty ->
                            struct (hidden, DraftVocabulary.add [| 1; 2 |] empty))

                    let struct (hidden, vocabulary) = kept

                    for use' in
                        [
                            fun () -> Model.narrowLogits vocabulary hidden |> ignore
                            fun () -> DraftVocabulary.add [| 3 |] vocabulary |> ignore
                            fun () -> DraftVocabulary.renew [| 3 |] vocabulary |> ignore
                        ] do
                        Expect.throwsT<ObjectDisposedException> use' "disposed"

                Expect.equal torch.Tensor.TotalCount tensors "tensors"
                Expect.equal FloatBuffer.Held floats "bytes")

        testCase "it outlives the weights' disposal as its cache does" (fun () ->
            let weights = Tiny.weights Dtype.F32 model

            withText weights [| 3; 1; 4 |] 4 (fun hidden empty ->
                let vocabulary = DraftVocabulary.add [| 1; 2 |] empty
                let before = narrow vocabulary hidden
                (weights :> IDisposable).Dispose()
                let more = DraftVocabulary.add [| 7 |] vocabulary
                Expect.equal (narrow more hidden |> Array.map (Array.truncate 2)) before "as before"
                Expect.equal (narrow more hidden) (wholeAt [| 1; 2; 7 |] hidden) "and more"))
    ]
