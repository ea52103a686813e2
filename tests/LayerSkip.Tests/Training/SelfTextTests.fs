module LayerSkip.Tests.SelfTextTests

open Expecto
open FsCheck
open LayerSkip
open LayerSkip.Tests.Tiny

Backend.ensure ()

[<Tests>]
let tests =
    testSequenced
    <| testList "self-written text" [
        testPropertyWithConfig
            (settings 20)
            "written side by side greedily, it is the engine's, whatever the openings"
        <| fun (case: Case) (PositiveInt more) ->
            withWeights Dtype.F64 case.Model (fun weights ->
                let length = case.Prompt.Length + 2 + more % 12
                let options = { Length = length; Temperature = 0.0; AtOnce = 3; Seed = 1L }

                let openings = [|
                    case.Prompt
                    [| 7 |]
                    Array.append case.Prompt [| 3 |]
                    Array.truncate 1 case.Prompt
                |]

                let written =
                    SelfText.texts weights options openings (int64 (4 * length)) |> Seq.concat |> Array.ofSeq

                let expected =
                    openings
                    |> Array.map (fun opening ->
                        let own =
                            Tiny.complete
                                weights
                                (GenerationOptions.greedy Strategy.Autoregressive (length - opening.Length))
                                opening

                        Array.append opening own.TokenIds)

                Expect.equal written expected "texts")

        testCase "at a temperature a text's law is the model's" (fun () ->
            let config = Tiny.config 24 2 2 1 true
            use weights = Weights.random 8L 0.8 Dtype.F64 Device.Cpu config
            let count = 6000
            let options = { Length = 2; Temperature = 0.7; AtOnce = count; Seed = 4L }
            let written = SelfText.batch weights options (Array.create count [| 5 |])

            let law =
                use _inference = Scope.inference ()
                let mutable logits = [||]
                Decoder.exits
                    weights
                    (fun layer all ->
                        if layer = 2 then
                            logits <- Tensors.toFloats all)
                    (Tensors.ofIds [| 1L; 1L |] [| 5 |])
                let scaled = logits |> Array.map (fun l -> exp (l / 0.7))
                let total = Array.sum scaled
                scaled |> Array.map (fun w -> w / total)

            let chi =
                law
                |> Array.mapi (fun id p ->
                    let seen = written |> Array.filter (fun text -> text[1] = id) |> Array.length |> float
                    let expected = p * float count
                    (seen - expected) ** 2.0 / expected)
                |> Array.sum

            // 23 degrees of freedom: the 99.99th percentile.
            Expect.isLessThan chi 58.0 "chi-square")

        testCase "the same seed writes the same texts, another others" (fun () ->
            let config = Tiny.config 24 4 4 2 true
            use weights = Weights.random 3L 0.8 Dtype.F32 Device.Cpu config
            let options seed = { Length = 30; Temperature = 6.0; AtOnce = 4; Seed = seed }
            let write seed =
                SelfText.texts weights (options seed) [| [| 1 |] |] 240L |> Seq.concat |> Array.ofSeq
            Expect.equal (write 1L) (write 1L) "one seed"
            Expect.notEqual (write 1L) (write 2L) "two seeds"
            Expect.equal (Array.distinct (write 1L)).Length 8 "no batch is like another")
    ]
