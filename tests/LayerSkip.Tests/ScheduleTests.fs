module LayerSkip.Tests.ScheduleTests

open Expecto
open FsCheck
open LayerSkip

let private close (what: string) (expected: float list) (found: float list) =
    Expect.equal found.Length expected.Length what

    for index, (a, b) in List.indexed (List.zip expected found) do
        Expect.isLessThan (abs (a - b)) 1e-6 $"{what}, number {index}: {b} instead of {a}"

let private first count (schedule: Schedule) = List.init count schedule

let private shares layers curriculum scale step =
    (ExitShares.tryCreate layers curriculum scale |> Check.getOrRaise) step |> List.ofArray

let private on (bits: int list) = bits |> List.map ((=) 1) |> Array.ofList

/// The layers that learn at steps 0, 1, ...
let private sets layers steps (curriculum: Curriculum) =
    List.init steps (fun step ->
        Curriculum.at layers curriculum step
        |> List.ofArray
        |> List.map (fun learns -> if learns then 1 else 0))

let private messages result =
    match result with
    | Ok _ -> failtest "an error was due"
    | Error faults -> LayerSkipError.summary faults

[<Tests>]
let tests =
    testList "schedules" [
        testList "over layers and steps" [
            testCase "D(l) has the paper's values" (fun () ->
                close "L = 4" [ 0.0; 0.259921; 0.587401; 1.0 ] (first 4 (Schedule.exponential 4))

                Schedule.exponential 8
                |> Schedule.scale 0.2
                |> first 8
                |> close "L = 8, p_max 0.2" [
                    0.0
                    0.020818
                    0.043803
                    0.069180
                    0.097199
                    0.128134
                    0.162289
                    0.2
                ])

            testCase
                "the mean of D over 24 to 40 layers is the paper's constant 0.0889 at p_max 0.2"
                (fun () ->
                    for layers in 24..40 do
                        let mean = first layers (Schedule.exponential layers) |> List.average
                        Expect.isLessThan (abs (0.2 * mean - 0.0889)) 2e-4 $"{layers} layers")

            testCase "S(t) from scratch has its value half way" (fun () ->
                let time = Schedule.exponential 101
                close "t = 0, 50, 100, 500" [ 0.0; 0.414214; 1.0; 1.0 ] (List.map time [ 0; 50; 100; 500 ]))

            testCase "torchtune's shapes start, pass the middle and end where they should" (fun () ->
                for name, start, middle in
                    [
                        "uniform", 1.0, 1.0
                        "exp", 0.0, sqrt 2.0 - 1.0
                        "linear", 0.0, 0.5
                        "log", 0.0, log 6.0 / log 11.0
                        "sin", 0.0, sqrt 0.5
                        "sigmoid", 0.006692851, 0.5
                    ] do
                    let shape = (Torchtune.dropoutShape name |> Check.getOrRaise) 11
                    close name [ start; middle; 1.0; 1.0 ] (List.map shape [ 0; 5; 10; 99 ]))

            testProperty "every shape stays within 0 and 1 and never falls"
            <| fun (PositiveInt count) (NonNegativeInt i) ->
                for shape in
                    [
                        Schedule.exponential
                        Schedule.linear
                        Schedule.logarithmic
                        Schedule.sine
                        Schedule.sigmoid
                    ] do
                    let here, next = shape count i, shape count (i + 1)
                    Expect.isTrue (0.0 <= here && here <= next && next <= 1.0) $"{here}, then {next}"

            testCase "schedules combine" (fun () ->
                Schedule.linear 5
                |> Schedule.scale 0.2
                |> Schedule.startingAt 2
                |> Schedule.among (on [ 1; 1; 1; 0; 1 ])
                |> first 5
                |> close "scaled, started, chosen" [ 0.0; 0.0; 0.1; 0.0; 0.2 ]

                close "constant" [ 0.3; 0.3 ] (first 2 (Schedule.constant 0.3)))
        ]

        testList "shares of the loss" [
            testCase "e(l) has the paper's values, raw and normalised" (fun () ->
                let raw scale = LossScale.paper scale (Array.create 4 true) |> List.ofArray
                close "raw, 0.1" [ 0.0; 0.1; 0.3; 3.3 ] (raw 0.1)
                close "raw, 0.2" [ 0.0; 0.2; 0.6; 3.6 ] (raw 0.2)
                close "raw, 1" [ 0.0; 1.0; 3.0; 6.0 ] (raw 1.0)
                let share scale = shares 4 Curriculum.all (LossScale.paper scale) 0
                close "0.1" [ 0.0; 0.027027; 0.081081; 0.891892 ] (share 0.1)
                close "0.2" [ 0.0; 0.045455; 0.136364; 0.818182 ] (share 0.2)
                close "1" [ 0.0; 0.1; 0.3; 0.6 ] (share 1.0)

                shares 8 Curriculum.all (LossScale.paper 0.2) 0
                |> close "L = 8" [ 0.0; 0.008929; 0.026786; 0.053571; 0.089286; 0.133929; 0.1875; 0.5 ])

            testCase "of 32 layers with 15 and the last on, the last has 0.837838" (fun () ->
                let found = shares 32 (Curriculum.grouped 1 [ 15 ]) (LossScale.paper 0.2) 0
                close "the last" [ 0.837838 ] [ found[31] ]
                close "layer 15" [ 1.0 - 0.837838 ] [ found[15] ])

            testCase "e_scale 0 is the last layer's loss alone" (fun () ->
                Expect.equal
                    (shares 5 Curriculum.all (LossScale.paper 0.0) 0)
                    [ 0.0; 0.0; 0.0; 0.0; 1.0 ]
                    "shares")

            testCase "one layer alone has weight 1" (fun () ->
                Expect.equal (shares 1 Curriculum.all (LossScale.paper 0.2) 0) [ 1.0 ] "a model of one layer"

                let only = { Curriculum.grouped 1 [ 2 ] with LastAlways = false }
                Expect.equal (shares 4 only (LossScale.paper 0.2) 0) [ 0.0; 0.0; 1.0; 0.0 ] "one layer on")

            testCase "torchtune's scales, by name" (fun () ->
                let scale name eScale enabled =
                    (Torchtune.lossScale name |> Check.getOrRaise) eScale enabled |> List.ofArray

                let all = on [ 1; 1; 1; 1 ]
                close "uniform" [ 0.5; 0.5; 0.5; 1.0 ] (scale "uniform" 0.5 all)
                close "linear_l" [ 1.0; 2.0; 3.0; 4.0 ] (scale "linear_l" 1.0 all)
                close "sum_l" [ 1.0; 3.0; 6.0; 10.0 ] (scale "sum_l" 1.0 all)
                close "sqrt_l" [ 1.0; sqrt 2.0; sqrt 3.0; 2.0 ] (scale "sqrt_l" 1.0 all)
                close "inv_l" [ 1.0; 0.5; 1.0 / 3.0; 0.25 ] (scale "inv_l" 1.0 all)
                close "inv_sqrt_l" [ 1.0; sqrt 0.5; sqrt (1.0 / 3.0); 0.5 ] (scale "inv_sqrt_l" 1.0 all)

                scale "torchtune.modules.early_exit_loss.sum_l_loss_scale" 0.1 (on [ 1; 0; 1; 1 ])
                |> close "sum_l over the layers that are on" [ 0.1; 0.0; 0.4; 8.0 ])

            testProperty "the shares of every step are 0 or more, and 1 together"
            <| fun (PositiveInt layers) (PositiveInt every) (NonNegativeInt step) (NormalFloat eScale) ->
                let layers = 1 + layers % 40

                for curriculum in
                    [
                        Curriculum.all
                        Curriculum.lastOnly
                        Curriculum.rotational every
                        Curriculum.gradual layers every
                        Curriculum.torchtuneRotational (Array.create layers true)
                        Curriculum.torchtuneGradual 0.5 every (Array.create layers true)
                    ] do
                    let found = shares layers curriculum (LossScale.paper (abs eScale)) step
                    Expect.all found (fun share -> share >= 0.0) "0 or more"
                    Expect.isLessThan (abs (List.sum found - 1.0)) 1e-12 "1 together"
                    Expect.isGreaterThan (List.last found) 0.0 "the last layer learns"

            testCase "a loss without weight is an error when it is made" (fun () ->
                let noLast curriculum = { curriculum with LastAlways = false }
                let faults curriculum scale = ExitShares.tryCreate 4 (noLast curriculum) scale |> messages

                Expect.stringContains (faults Curriculum.lastOnly (LossScale.paper 1.0)) "step 0" "no layer"
                // Layer 0 alone comes first, and e(0) = 0.
                Expect.stringContains
                    (faults (Curriculum.rotational 4) (LossScale.paper 1.0))
                    "step 0"
                    "layer 0"

                let late = Curriculum.torchtuneRotational (on [ 0; 0; 1; 0 ])
                Expect.stringContains (faults late (LossScale.paper 0.2)) "step 2" "only at step 2"
                Expect.stringContains (faults Curriculum.all (LossScale.paper -0.1)) "0 or more" "negative"
                Expect.stringContains
                    (faults Curriculum.all (LossScale.paper nan))
                    "0 or more"
                    "not a number"
                Expect.stringContains
                    (faults (Curriculum.rotational 0) (LossScale.paper 0.2))
                    "1 or more"
                    "R = 0"
                Expect.stringContains
                    (faults (Curriculum.grouped 0 [ 1 ]) (LossScale.paper 0.2))
                    "1 or more"
                    "0 groups")
        ]

        testList "curricula" [
            testCase "rotation turns by one layer a step, and keeps the last on" (fun () ->
                Expect.equal
                    (Curriculum.rotational 3 |> sets 7 4)
                    [
                        [ 1; 0; 0; 1; 0; 0; 1 ]
                        [ 0; 1; 0; 0; 1; 0; 1 ]
                        [ 0; 0; 1; 0; 0; 1; 1 ]
                        [ 1; 0; 0; 1; 0; 0; 1 ]
                    ]
                    "R = 3")

            testProperty "in R steps of the paper's rotation every layer learns once"
            <| fun (PositiveInt layers) (PositiveInt every) (NonNegativeInt start) ->
                let rotation = { Curriculum.rotational every with LastAlways = false }

                for layer in 0..layers do
                    let times =
                        Seq.init every (fun i -> rotation.Enabled (start + i) layer)
                        |> Seq.filter id
                        |> Seq.length

                    Expect.equal times 1 $"layer {layer}"

            testCase "torchtune's rotation has its values" (fun () ->
                Expect.equal
                    (Curriculum.torchtuneRotational (on [ 1; 0; 0 ]) |> sets 3 4)
                    [ [ 1; 0; 1 ]; [ 0; 1; 1 ]; [ 0; 0; 1 ]; [ 1; 0; 1 ] ]
                    "from [1, 0, 0]")

            testCase "torchtune's gradual curriculum has its values" (fun () ->
                Expect.equal
                    (Curriculum.torchtuneGradual 1.0 4 (on [ 1; 1; 1; 1 ]) |> sets 4 6)
                    [
                        [ 0; 0; 0; 1 ]
                        [ 0; 0; 0; 1 ]
                        [ 0; 0; 0; 1 ]
                        [ 0; 0; 1; 1 ]
                        [ 0; 1; 1; 1 ]
                        [ 1; 1; 1; 1 ]
                    ]
                    "L = T = 4, all at the end"

                Expect.equal
                    (Curriculum.torchtuneGradual 0.5 4 (on [ 1; 0; 1; 1 ]) |> sets 4 4 |> List.last)
                    [ 1; 0; 1; 1 ]
                    "only the chosen")

            testCase
                "the paper's gradual curriculum has one layer more every T / 2L steps, and all before T / 2"
                (fun () ->
                    // L = 4, T = 80: layers 3, 2, 1, 0 from steps 0, 10, 20, 30.
                    let starts =
                        List.init 4 (fun layer ->
                            Seq.initInfinite id
                            |> Seq.find (fun step -> (Curriculum.gradual 4 80).Enabled step layer))

                    Expect.equal starts [ 30; 20; 10; 0 ] "first steps")

            testProperty "what a gradual curriculum turns on stays on"
            <| fun (PositiveInt layers) (PositiveInt steps) (NonNegativeInt step) ->
                for curriculum in
                    [
                        Curriculum.gradual layers steps
                        Curriculum.torchtuneGradual 0.5 steps (Array.create layers true)
                    ] do
                    for layer in 0 .. layers - 1 do
                        if curriculum.Enabled step layer then
                            Expect.isTrue (curriculum.Enabled (step + 1) layer) $"layer {layer}"

                    Expect.isTrue (curriculum.Enabled (steps + 2) 0) "all on at the end"

            testProperty "the cycle shows every set of layers"
            <| fun (PositiveInt layers) (PositiveInt every) (NonNegativeInt step) ->
                let chosen = Array.init layers (fun layer -> layer % 3 = 0)

                for curriculum in
                    [
                        Curriculum.rotational every
                        Curriculum.gradual layers every
                        Curriculum.torchtuneRotational chosen
                        Curriculum.torchtuneGradual 0.5 every chosen
                        Curriculum.grouped every [ 0 .. layers - 1 ]
                    ] do
                    let at = Curriculum.at layers curriculum
                    let known = Seq.init curriculum.Cycle at
                    Expect.isTrue (Seq.contains (at step) known) $"step {step} of {curriculum.Cycle}"
        ]

        testList "exit emphasis" [
            testCase "each exit has its own weight beside the last layer's 1" (fun () ->
                let shares = ExitShares.emphasis 6 1 [ 2, 0.5; 4, 0.25 ] |> Check.getOrRaise
                close
                    "shares"
                    [ 0.0; 0.5; 0.0; 0.25; 0.0; 1.0 ]
                    (shares 3 |> List.ofArray |> List.map (fun s -> s * 1.75)))

            testCase "groups take turns" (fun () ->
                let shares = ExitShares.emphasis 8 2 [ 2, 1.0; 3, 1.0; 5, 1.0 ] |> Check.getOrRaise
                let third = 1.0 / 3.0
                let exits step = shares step |> List.ofArray
                close "exits 2 and 5" [ 0.0; third; 0.0; 0.0; third; 0.0; 0.0; third ] (exits 0)
                close "exit 3" [ 0.0; 0.0; 0.5; 0.0; 0.0; 0.0; 0.0; 0.5 ] (exits 1)
                close "again" (exits 0) (exits 2))

            testCase "faults come all at once" (fun () ->
                let found = ExitShares.emphasis 4 1 [ 4, 1.0; 0, 1.0; 2, 1.0; 2, 1.0 ] |> messages
                Expect.stringContains found "for exit 4" "the last is no early exit"
                Expect.stringContains found "for exit 0" "nor is the embedding"
                Expect.stringContains found "twice for 2" "twice"
                Expect.stringContains
                    (ExitShares.emphasis 4 1 [ 2, -1.0 ] |> messages)
                    "0 or more"
                    "negative"
                Expect.stringContains
                    (ExitShares.emphasis 4 0 [ 2, 1.0 ] |> messages)
                    "1 to 1 groups"
                    "no group"
                Expect.stringContains
                    (ExitShares.emphasis 4 1 [ 2, 0.0 ] |> messages)
                    "without any weight"
                    "none")
        ]

        testList "torchtune's configuration" [
            testCase "layers come as slices and lists" (fun () ->
                let read count text =
                    Torchtune.layers count text
                    |> Check.getOrRaise
                    |> Seq.indexed
                    |> Seq.choose (fun (layer, chosen) -> if chosen then Some layer else None)
                    |> List.ofSeq

                Expect.equal (read 10 "0::4") [ 0; 4; 8 ] "0::4"
                Expect.equal (read 4 ":") [ 0; 1; 2; 3 ] ":"
                Expect.equal (read 5 "1::2") [ 1; 3 ] "1::2"
                Expect.equal (read 5 ":2") [ 0; 1 ] ":2"
                Expect.equal (read 5 "3:") [ 3; 4 ] "3:"
                Expect.equal (read 5 "1:9:3") [ 1; 4 ] "an end beyond the last"
                Expect.equal (read 32 "8,12, 16") [ 8; 12; 16 ] "a list"
                Expect.equal (read 4 "3") [ 3 ] "one")

            testCase "curricula come by their class names, or none" (fun () ->
                let chosen = on [ 1; 0; 0 ]
                let read name = Torchtune.curriculum name 4 chosen |> Check.getOrRaise |> sets 3 2
                let rotated, still = [ [ 1; 0; 1 ]; [ 0; 1; 1 ] ], [ [ 1; 0; 1 ]; [ 1; 0; 1 ] ]
                Expect.equal
                    (read "torchtune.modules.early_exit_loss.RotationalEarlyExitCurriculum")
                    rotated
                    "a path"
                Expect.equal (read "rot") rotated "the short name"
                Expect.equal (read "gradual") [ [ 0; 0; 1 ]; [ 0; 0; 1 ] ] "gradual"
                Expect.equal (read null) still "null")

            testCase "a whole configuration gives its shares" (fun () ->
                let chosen = Torchtune.layers 4 "0::2" |> Check.getOrRaise
                let curriculum = Torchtune.curriculum "rot" 100 chosen |> Check.getOrRaise
                let scale = Torchtune.lossScale "sum_l" |> Check.getOrRaise
                // Layers 0, 2 and 3: sums 1, 4, 8.
                close
                    "step 0"
                    [ 1.0 / 13.0; 0.0; 4.0 / 13.0; 8.0 / 13.0 ]
                    (shares 4 curriculum (scale 1.0) 0))

            testCase "unknown names say what is known" (fun () ->
                Expect.stringContains (Torchtune.lossScale "one" |> messages) "inv_sqrt_l" "scale"
                Expect.stringContains (Torchtune.dropoutShape "step" |> messages) "sigmoid" "shape"
                Expect.stringContains
                    (Torchtune.curriculum "x" 4 [| true |] |> messages)
                    "Gradual"
                    "curriculum"

                for text in [ "4"; "a"; "1:2:3:4"; "::0"; "-1"; "" ] do
                    Expect.stringContains (Torchtune.layers 4 text |> messages) "0::4" $"'{text}'")
        ]
    ]
