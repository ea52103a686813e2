namespace LayerSkip

open System
open System.Runtime.CompilerServices
open System.Runtime.Intrinsics
open FSharp.NativeInterop

#nowarn "9" // Values and weights are read by address.

/// The numbers that a block can hold.
type internal IGrid =
    /// The nearest of them to each of eight values, in units of the scale.
    abstract Nearest: Vector256<float32> -> Vector256<float32>
    /// The same as the block stores them: counted from 0.
    abstract Code: Vector256<float32> -> Vector256<float32>

/// All whole numbers of a range.
[<Struct>]
type internal WholeNumbers(low: float32, high: float32) =
    member _.Low = low
    member _.High = high

    interface IGrid with
        [<MethodImpl(MethodImplOptions.AggressiveInlining)>]
        member _.Nearest values =
            let whole = Vector256.Round values
            Vector256.MaxNative(Vector256.Create low, Vector256.MinNative(Vector256.Create high, whole))

        [<MethodImpl(MethodImplOptions.AggressiveInlining)>]
        member this.Code values = Vector256.Subtract((this :> IGrid).Nearest values, Vector256.Create low)

/// A few levels, the lowest first.
[<Struct>]
type internal Levels(first: float32, middles: float32[], gaps: float32[]) =
    /// Between neighbours, and from the lowest on.
    static member Of(levels: sbyte[]) =
        let pairs = Array.pairwise (Array.map float32 levels)
        Levels(
            float32 levels[0],
            pairs |> Array.map (fun (a, b) -> (a + b) / 2.0f),
            pairs |> Array.map (fun (a, b) -> b - a)
        )

    interface IGrid with
        [<MethodImpl(MethodImplOptions.AggressiveInlining)>]
        member _.Nearest values =
            let mutable level = Vector256.Create first

            for index in 0 .. middles.Length - 1 do
                let isAbove = Vector256.GreaterThan(values, Vector256.Create middles[index])
                level <- Vector256.Add(level, Vector256.BitwiseAnd(isAbove, Vector256.Create gaps[index]))

            level

        [<MethodImpl(MethodImplOptions.AggressiveInlining)>]
        member _.Code values =
            let mutable code = Vector256<float32>.Zero

            for index in 0 .. middles.Length - 1 do
                let isAbove = Vector256.GreaterThan(values, Vector256.Create middles[index])
                code <- Vector256.Add(code, Vector256.BitwiseAnd(isAbove, Vector256.Create 1.0f))

            code

/// Values that share a scale, and how much the square of each one's error counts. Not one is NaN or infinite.
[<Struct>]
type internal Group = {
    Values: nativeint
    Weights: nativeint
    /// A multiple of 8.
    Count: int
}

/// Over a group's values x, their weights and the numbers q they are nearest to.
[<Struct>]
type internal GridSums = { Q: float32; QQ: float32; XQ: float32 }

/// Scales of groups by weighted least squares: a few obvious ones are tried, each is made the best for the numbers that it
/// leads to, and from the best of them numbers and scale are chosen in turn, which only ever lessens the error.
[<RequireQualifiedAccess>]
module internal GgufFit =
    // Of numbers and scale in turn.
    let private rounds = 2

    let inline private at (address: nativeint) (index: int) : Vector256<float32> =
        Vector256.Load(NativePtr.ofNativeInt<float32>(address + nativeint (4 * index)))

    let private nearest (value: float32) : Half =
        let largest = float32 Half.MaxValue
        Half.op_Explicit (Math.Clamp(value, -largest, largest))

    /// The float16 nearest to a value.
    let toHalf (value: float32) : float32 = float32 (nearest value)

    /// The same of a scale; among subnormal ones the next in size, so that no value grows beyond the largest number.
    let toScale (scale: float32) : float32 =
        let half = nearest scale

        if abs scale < 6.1035156e-5f && abs (float32 half) < abs scale then
            float32 (BitConverter.UInt16BitsToHalf(BitConverter.HalfToUInt16Bits half + 1us))
        else
            float32 half

    /// 1 / scale; 0 for a scale that leaves nothing but 0.
    let inverse (scale: float32) : float32 = if scale = 0.0f then 0.0f else 1.0f / scale

    /// Sets the weights: more for a large value, which is felt more in what it multiplies.
    [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
    let weigh (group: Group) : unit =
        let mutable squares = Vector256<float32>.Zero

        for index in 0..8 .. group.Count - 1 do
            let values = at group.Values index
            squares <- Vector256.Add(squares, Vector256.Multiply(values, values))

        let size = Vector256.Create(sqrt (Vector256.Sum squares / float32 group.Count))

        for index in 0..8 .. group.Count - 1 do
            let weights = Vector256.Add(Vector256.Abs(at group.Values index), size)
            Vector256.Store(weights, NativePtr.ofNativeInt<float32>(group.Weights + nativeint (4 * index)))

    /// Least and largest.
    [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
    let range (group: Group) : struct (float32 * float32) =
        let mutable low = at group.Values 0
        let mutable high = low

        for index in 8..8 .. group.Count - 1 do
            let values = at group.Values index
            low <- Vector256.MinNative(low, values)
            high <- Vector256.MaxNative(high, values)

        let mutable least = low[0]
        let mutable most = high[0]

        for lane in 1..7 do
            least <- min least low[lane]
            most <- max most high[lane]

        least, most

    /// Sums of the weights, and of the weighted values.
    [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
    let totals (group: Group) : struct (float32 * float32) =
        let mutable weight = Vector256<float32>.Zero
        let mutable value = Vector256<float32>.Zero

        for index in 0..8 .. group.Count - 1 do
            let weights = at group.Weights index
            weight <- Vector256.Add(weight, weights)
            value <- Vector256.Add(value, Vector256.Multiply(weights, at group.Values index))

        Vector256.Sum weight, Vector256.Sum value

    /// The sums for x - origin in place of x, and the numbers nearest to (x - origin - offset) * inverse.
    [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
    let sums<'Grid when 'Grid: struct and 'Grid :> IGrid>
        (grid: 'Grid)
        (group: Group)
        (origin: float32)
        (inverse: float32)
        (offset: float32)
        : GridSums =
        let mutable q = Vector256<float32>.Zero
        let mutable qq = Vector256<float32>.Zero
        let mutable xq = Vector256<float32>.Zero
        let inverse, offset = Vector256.Create inverse, Vector256.Create offset
        let origin = Vector256.Create origin

        for index in 0..8 .. group.Count - 1 do
            let values = Vector256.Subtract(at group.Values index, origin)
            let numbers = grid.Nearest(Vector256.Multiply(Vector256.Subtract(values, offset), inverse))
            let weighted = Vector256.Multiply(at group.Weights index, numbers)
            q <- Vector256.Add(q, weighted)
            qq <- Vector256.Add(qq, Vector256.Multiply(weighted, numbers))
            xq <- Vector256.Add(xq, Vector256.Multiply(weighted, values))

        { Q = Vector256.Sum q; QQ = Vector256.Sum qq; XQ = Vector256.Sum xq }

    /// The weighted sum of squared errors of scale * q + offset.
    [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
    let error<'Grid when 'Grid: struct and 'Grid :> IGrid>
        (grid: 'Grid)
        (group: Group)
        (scale: float32)
        (offset: float32)
        : float32 =
        let mutable total = Vector256<float32>.Zero
        let inverse = Vector256.Create(inverse scale)
        let scale, offset = Vector256.Create scale, Vector256.Create offset

        for index in 0..8 .. group.Count - 1 do
            let rest = Vector256.Subtract(at group.Values index, offset)
            let numbers = grid.Nearest(Vector256.Multiply(rest, inverse))
            let off = Vector256.Subtract(rest, Vector256.Multiply(numbers, scale))
            total <-
                Vector256.Add(total, Vector256.Multiply(at group.Weights index, Vector256.Multiply(off, off)))

        Vector256.Sum total

    /// The best scale for the numbers that 1 / `inverse` leads to, and by how much it lessens the sum of squares.
    [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
    let private rescaled grid group inverse : struct (float32 * float32) =
        let sums = sums grid group 0.0f inverse 0.0f

        if sums.QQ > 0.0f then
            let scale = sums.XQ / sums.QQ
            scale, scale * sums.XQ
        else
            0.0f, 0.0f

    /// The scale of a group, value = scale * q. `targets`: the numbers, whole or not, that the value furthest from 0 is tried at.
    [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
    let scale<'Grid when 'Grid: struct and 'Grid :> IGrid>
        (grid: 'Grid)
        (targets: float32[])
        (group: Group)
        : float32 =
        let struct (low, high) = range group
        let furthest = if -low > high then low else high
        let mutable scale = 0.0f
        let mutable most = 0.0f

        if furthest <> 0.0f then
            for target in targets do
                let struct (attempt, gain) = rescaled grid group (target / furthest)

                if gain > most then
                    most <- gain
                    scale <- attempt

            let mutable left = if most > 0.0f then rounds else 0

            while left > 0 do
                let struct (attempt, gain) = rescaled grid group (1.0f / scale)
                left <- if gain > most then left - 1 else 0

                if gain > most then
                    most <- gain
                    scale <- attempt

        scale

    /// The same for a scale and an offset from `origin`; with `below` none that is above 0 itself.
    /// `weight` and `value` are the group's totals, of x - origin.
    [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
    let private refitted grid group weight value origin below inverse offset =
        let sums = sums grid group origin inverse offset
        let determinant = weight * sums.QQ - sums.Q * sums.Q
        let scale = (weight * sums.XQ - value * sums.Q) / determinant
        let start = (value * sums.QQ - sums.Q * sums.XQ) / determinant

        // 2 sum (x f) - sum (f^2), for f = scale * q + start.
        let gain scale start =
            2.0f * (scale * sums.XQ + start * value)
            - (scale * scale * sums.QQ + 2.0f * scale * start * sums.Q + start * start * weight)

        if determinant > 1e-6f * weight * sums.QQ && not (below && start + origin > 0.0f) then
            struct (scale, start, gain scale start)
        elif below && sums.QQ > 0.0f then
            let scale = (sums.XQ + origin * sums.Q) / sums.QQ
            scale, -origin, gain scale -origin
        else
            0.0f, 0.0f, 0.0f

    /// Scale and offset of a group, value = scale * q + offset, for numbers from 0 on; with `below` no offset above 0.
    /// `targets`: the numbers that the largest value is tried at where the least has 0.
    [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
    let line<'Grid when 'Grid: struct and 'Grid :> IGrid>
        (grid: 'Grid)
        (targets: float32[])
        (below: bool)
        (group: Group)
        : struct (float32 * float32) =
        let struct (low, high) = range group
        let origin = if below then min low 0.0f else low
        let struct (weight, value) = totals group
        let value = value - weight * origin
        let mutable scale = 0.0f
        let mutable offset = 0.0f
        let mutable most = -infinityf

        if high > origin then
            for target in targets do
                let struct (attempt, start, gain) =
                    refitted grid group weight value origin below (target / (high - origin)) 0.0f

                if attempt > 0.0f && gain > most then
                    most <- gain
                    scale <- attempt
                    offset <- start

            let mutable left = if scale > 0.0f then rounds else 0

            while left > 0 do
                let struct (attempt, start, gain) =
                    refitted grid group weight value origin below (1.0f / scale) offset

                left <- if attempt > 0.0f && gain > most then left - 1 else 0

                if left > 0 then
                    most <- gain
                    scale <- attempt
                    offset <- start

        scale, origin + offset

    /// Writes the codes of the numbers nearest to (x - offset) / scale, an int32 each.
    [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
    let codes<'Grid when 'Grid: struct and 'Grid :> IGrid>
        (grid: 'Grid)
        (group: Group)
        (scale: float32)
        (offset: float32)
        (target: nativeint)
        : unit =
        let inverse, offset = Vector256.Create(inverse scale), Vector256.Create offset

        for index in 0..8 .. group.Count - 1 do
            let rest = Vector256.Subtract(at group.Values index, offset)
            let codes = Vector256.ConvertToInt32(grid.Code(Vector256.Multiply(rest, inverse)))
            Vector256.Store(codes, NativePtr.ofNativeInt<int>(target + nativeint (4 * index)))
