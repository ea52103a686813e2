namespace LayerSkip

open System
open System.Runtime.CompilerServices
open System.Runtime.InteropServices
open FSharp.NativeInterop

/// Blocks of 256 values: groups whose scales (and minima) are small numbers themselves.
[<RequireQualifiedAccess>]
module internal GgufEncodeK =
    /// How a format shares out its 256 values.
    type private Plan = {
        Groups: int
        /// Of a group's scale; those of its minimum go from 0 on, None: it has none.
        Scales: WholeNumbers
        Least: WholeNumbers option
        /// Where scales, and minima, are tried (see `GgufFit.scale`).
        ScaleTargets: float32[]
        LeastTargets: float32[]
        /// Where the values are.
        Targets: float32[]
    }

    let private whole (numbers: WholeNumbers) (value: float32) =
        Math.Clamp(MathF.Round value, numbers.Low, numbers.High)

    /// The scale of the groups' own scales.
    let private shared
        (numbers: WholeNumbers)
        targets
        groups
        (values: Pinned<float32>)
        (weights: Pinned<float32>)
        =
        GgufFit.scale numbers targets { Values = values.Address; Weights = weights.Address; Count = groups }
        |> GgufFit.toScale

    let private groupOf (plan: Plan) (values: nativeint) (scratch: EncodeScratch) (index: int) : Group =
        let width = 256 / plan.Groups
        let start = nativeint (4 * width * index)
        { Values = values + start; Weights = scratch.Weights.Address + start; Count = width }

    /// Scales and minima of the groups as they would be by themselves, and D and DMin for them.
    [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
    let private start grid (plan: Plan) (values: nativeint) (made: EncodeScratch) =
        for index in 0 .. plan.Groups - 1 do
            let group = groupOf plan values made index

            let struct (scale, offset) =
                match plan.Least with
                | None -> GgufFit.scale grid plan.Targets group, 0.0f
                | Some _ -> GgufFit.line grid plan.Targets true group

            let struct (weight, _) = GgufFit.totals group
            let sums = GgufFit.sums grid group 0.0f (GgufFit.inverse scale) offset
            made.Scales.Items[index] <- scale
            made.ScaleWeights.Items[index] <- sums.QQ
            made.Least.Items[index] <- -offset
            made.LeastWeights.Items[index] <- weight

        made.D <- shared plan.Scales plan.ScaleTargets plan.Groups made.Scales made.ScaleWeights

        match plan.Least with
        | None -> ()
        | Some least -> made.DMin <- shared least plan.LeastTargets plan.Groups made.Least made.LeastWeights

        let d, dmin = GgufFit.inverse made.D, GgufFit.inverse made.DMin

        for index in 0 .. plan.Groups - 1 do
            made.Scales.Items[index] <- whole plan.Scales (made.Scales.Items[index] * d)

            match plan.Least with
            | None -> ()
            | Some least -> made.Least.Items[index] <- whole least (made.Least.Items[index] * dmin)

    /// Chooses each group's numbers anew, one up or down, by the values' own error.
    [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
    let private choose grid (plan: Plan) (values: nativeint) (made: EncodeScratch) =
        for index in 0 .. plan.Groups - 1 do
            let group = groupOf plan values made index
            let scale, least = made.Scales.Items[index], made.Least.Items[index]
            let mutable lowest = infinityf

            let attempt scale least = GgufFit.error grid group (made.D * scale) -(made.DMin * least)

            for up in -1 .. 1 do
                match plan.Least with
                | None ->
                    let scale = whole plan.Scales (scale + float32 up)
                    let error = attempt scale 0.0f

                    if error < lowest then
                        lowest <- error
                        made.Scales.Items[index] <- scale
                | Some numbers ->
                    for leastUp in -1 .. 1 do
                        let scale = whole plan.Scales (scale + float32 up)
                        let least = whole numbers (least + float32 leastUp)
                        let error = attempt scale least

                        if error < lowest then
                            lowest <- error
                            made.Scales.Items[index] <- scale
                            made.Least.Items[index] <- least

    /// D and DMin anew, for the numbers as they are.
    [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
    let private refit grid (plan: Plan) (values: nativeint) (made: EncodeScratch) =
        let mutable dd, dm, mm, xd, xm = 0.0, 0.0, 0.0, 0.0, 0.0

        for index in 0 .. plan.Groups - 1 do
            let group = groupOf plan values made index
            let scale, least = float made.Scales.Items[index], float made.Least.Items[index]
            let d = made.D * made.Scales.Items[index]
            let sums = GgufFit.sums grid group 0.0f (GgufFit.inverse d) -(made.DMin * made.Least.Items[index])
            let struct (weight, value) = GgufFit.totals group
            dd <- dd + scale * scale * float sums.QQ
            dm <- dm - scale * least * float sums.Q
            mm <- mm + least * least * float weight
            xd <- xd + scale * float sums.XQ
            xm <- xm - least * float value

        let determinant = dd * mm - dm * dm

        if determinant > 1e-9 * dd * mm then
            made.D <- GgufFit.toScale (float32 ((xd * mm - xm * dm) / determinant))
            made.DMin <- GgufFit.toScale (float32 ((xm * dd - xd * dm) / determinant))
        elif dd > 0.0 && mm = 0.0 then
            made.D <- GgufFit.toScale (float32 (xd / dd))

    /// Encodes by a plan; `put` packs codes, scales and minima.
    let private ofPlan
        format
        grid
        (plan: Plan)
        (put: EncodeScratch -> int[] -> byte[] -> unit)
        : EncodeBlocks =
        GgufEncode.each format (fun values made block ->
            start grid plan values made

            for _ in 1..2 do
                choose grid plan values made
                refit grid plan values made

            choose grid plan values made
            let width = 256 / plan.Groups

            for index in 0 .. plan.Groups - 1 do
                GgufFit.codes
                    grid
                    (groupOf plan values made index)
                    (made.D * made.Scales.Items[index])
                    -(made.DMin * made.Least.Items[index])
                    (made.Codes.Address + nativeint (4 * width * index))

            put made made.Codes.Items block)

    let private add (block: byte[]) (at: int) (bits: int) = block[at] <- block[at] ||| byte bits
    let private half (block: byte[]) (at: int) (value: float32) = GgufEncode.putHalf (block.AsSpan()) at value

    /// Of 256 values: the half, the quarter of the half, and the place there.
    let inline private places ([<InlineIfLambda>] one: int -> int -> int -> int -> unit) =
        for index in 0..255 do
            one index (index / 128) (index / 32 % 4) (index % 32)

    /// The 12 bytes of Q4_K's and Q5_K's scales and minima: 6 bits each.
    let private putSixBits (made: EncodeScratch) (block: byte[]) (at: int) =
        for part in 0..3 do
            let scale, least = int made.Scales.Items[part], int made.Least.Items[part]
            let laterScale, laterLeast = int made.Scales.Items[part + 4], int made.Least.Items[part + 4]
            add block (at + part) (scale ||| ((laterScale >>> 4) <<< 6))
            add block (at + part + 4) (least ||| ((laterLeast >>> 4) <<< 6))
            add block (at + part + 8) ((laterScale &&& 15) ||| ((laterLeast &&& 15) <<< 4))

    let private upTo (largest: float32) = WholeNumbers(0.0f, largest)

    let private withLeast groups largest largestLeast targets : Plan = {
        Groups = groups
        Scales = upTo largest
        Least = Some(upTo largestLeast)
        ScaleTargets = GgufEncode.targets (largest - floor (largest / 4.0f)) 1.0f largest
        LeastTargets = GgufEncode.targets (largestLeast - floor (largestLeast / 4.0f)) 1.0f largestLeast
        Targets = targets
    }

    let private signed groups (low: float32) (high: float32) scaleTargets targets : Plan = {
        Groups = groups
        Scales = WholeNumbers(low, high)
        Least = None
        ScaleTargets = scaleTargets
        LeastTargets = [||]
        Targets = targets
    }

    let q2_K =
        let plan = withLeast 16 15.0f 15.0f (GgufEncode.targets 2.0f 0.25f 3.5f)

        ofPlan GgufBlocks.q2_K (upTo 3.0f) plan (fun made codes block ->
            for group in 0..15 do
                add block group (int made.Scales.Items[group] ||| (int made.Least.Items[group] <<< 4))

            places (fun index part quarter place ->
                add block (16 + 32 * part + place) (codes[index] <<< (2 * quarter)))

            half block 80 made.D
            half block 82 made.DMin)

    let q3_K =
        let plan =
            signed
                16
                -32.0f
                31.0f
                (Array.append (GgufEncode.targets -32.0f 1.0f -25.0f) (GgufEncode.targets 25.0f 1.0f 31.0f))
                (Array.append (GgufEncode.targets -4.7f 0.3f -2.3f) (GgufEncode.targets 2.3f 0.3f 3.8f))

        ofPlan GgufBlocks.q3_K (WholeNumbers(-4.0f, 3.0f)) plan (fun made codes block ->
            for group in 0..15 do
                let scale = int made.Scales.Items[group] + 32
                add block (96 + group % 8) ((scale &&& 15) <<< (4 * (group / 8)))
                add block (104 + group % 4) ((scale >>> 4) <<< (2 * (group / 4)))

            places (fun index part quarter place ->
                let code = codes[index]
                add block (32 + 32 * part + place) ((code &&& 3) <<< (2 * quarter))
                add block place ((code >>> 2) <<< (4 * part + quarter)))

            half block 108 made.D)

    /// Nibbles of Q4_K and Q5_K: those of 64 values in 32 bytes.
    let private putNibblesOf64 (codes: int[]) (block: byte[]) (at: int) =
        places (fun index part quarter place ->
            let at = at + 64 * part + 32 * (quarter / 2) + place
            add block at ((codes[index] &&& 15) <<< (4 * (quarter % 2))))

    let q4_K =
        let plan = withLeast 8 63.0f 63.0f (GgufEncode.targets 12.5f 0.25f 16.5f)

        ofPlan GgufBlocks.q4_K (upTo 15.0f) plan (fun made codes block ->
            half block 0 made.D
            half block 2 made.DMin
            putSixBits made block 4
            putNibblesOf64 codes block 16)

    let q5_K =
        let plan = withLeast 8 63.0f 63.0f (GgufEncode.targets 28.0f 0.5f 32.5f)

        ofPlan GgufBlocks.q5_K (upTo 31.0f) plan (fun made codes block ->
            half block 0 made.D
            half block 2 made.DMin
            putSixBits made block 4
            places (fun index part quarter place ->
                add block (16 + place) ((codes[index] >>> 4) <<< (4 * part + quarter)))
            putNibblesOf64 codes block 48)

    let q6_K =
        let plan =
            signed
                16
                -128.0f
                127.0f
                (Array.append
                    (GgufEncode.targets -128.0f 2.0f -112.0f)
                    (GgufEncode.targets 111.0f 2.0f 127.0f))
                (Array.append (GgufEncode.targets -33.0f 1.0f -28.0f) (GgufEncode.targets 28.0f 1.0f 32.0f))

        ofPlan GgufBlocks.q6_K (WholeNumbers(-32.0f, 31.0f)) plan (fun made codes block ->
            places (fun index part quarter place ->
                let code = codes[index]
                let low = 64 * part + 32 * (quarter % 2) + place
                add block low ((code &&& 15) <<< (4 * (quarter / 2)))
                add block (128 + 32 * part + place) ((code >>> 4) <<< (2 * quarter)))

            for group in 0..15 do
                block[192 + group] <- byte (sbyte made.Scales.Items[group])

            half block 208 made.D)

    let iq4_XS =
        let plan =
            signed
                8
                -32.0f
                31.0f
                (Array.append (GgufEncode.targets -32.0f 1.0f -25.0f) (GgufEncode.targets 25.0f 1.0f 31.0f))
                GgufEncode.levelTargets

        ofPlan GgufBlocks.iq4_XS GgufEncode.levels plan (fun made codes block ->
            half block 0 made.D

            for part in 0..7 do
                let scale = int made.Scales.Items[part] + 32
                add block (2 + part / 4) ((scale >>> 4) <<< (2 * (part % 4)))
                add block (4 + part / 2) ((scale &&& 15) <<< (4 * (part % 2)))
                GgufEncode.putNibbles (ReadOnlySpan(codes, 32 * part, 32)) (block.AsSpan(8 + 16 * part, 16)))

    let private all: (BlockFormat * EncodeBlocks) list = [
        GgufBlocks.q8_0, GgufEncode.q8_0
        GgufBlocks.q4_0, GgufEncode.q4_0
        GgufBlocks.q4_1, GgufEncode.q4_1
        GgufBlocks.q5_0, GgufEncode.q5_0
        GgufBlocks.q5_1, GgufEncode.q5_1
        GgufBlocks.q2_K, q2_K
        GgufBlocks.q3_K, q3_K
        GgufBlocks.q4_K, q4_K
        GgufBlocks.q5_K, q5_K
        GgufBlocks.q6_K, q6_K
        GgufBlocks.iq4_NL, GgufEncode.iq4_NL
        GgufBlocks.iq4_XS, iq4_XS
    ]

    /// Of a format that `GgufBlocks` decodes.
    let encoder (format: BlockFormat) : EncodeBlocks = all |> List.find (fun (own, _) -> own = format) |> snd
