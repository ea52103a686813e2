module LayerSkip.Tests.Tiny

open FsCheck
open FsCheck.FSharp
open LayerSkip

/// A small llama: vocabulary, layers, heads, kv heads, tied or not.
let config vocabulary layers heads kvHeads tied =
    let sizes = LlamaConfig.Llama(vocabulary, layers, 16, 24, heads, kvHeads, context = 96)
    { sizes with HeadDim = 4; TiedHead = tied; Bos = Some 1 }

/// A random tiny model to be: its configuration, and the seed of its weights.
type Model = { Config: LlamaConfig; Seed: int64 }

let weights (dtype: Dtype) (model: Model) = Weights.random model.Seed 0.8 dtype Device.Cpu model.Config

/// Runs over a model's weights, and frees them.
let withWeights dtype model (body: Weights -> 'T) : 'T =
    use weights = weights dtype model
    body weights

let private model layers =
    gen {
        let! layers = layers
        let! heads, kvHeads = Gen.elements [ 1, 1; 2, 1; 2, 2; 4, 1; 4, 2; 4, 4 ]
        let! tied = Gen.elements [ true; false ]
        let! bias = Gen.elements [ true; false ]
        let! qkNorm = Gen.elements [ true; false ]
        let! window = Gen.elements [ None; None; Some 3; Some 8 ]
        let! seed = Gen.choose (0, 1_000_000)

        return {
            Config = {
                config 24 layers heads kvHeads tied with
                    QkvBias = bias
                    OutputBias = bias
                    MlpBias = bias
                    QkNorm = qkNorm
                    Windows = Array.init layers (fun layer -> if layer % 2 = 0 then window else None)
            }
            Seed = int64 seed
        }
    }

/// A model with somewhere to exit, the exit, a draft length, and a prompt.
type Case = { Model: Model; Exit: int; Draft: int; Prompt: int[] }

type Arbitraries =
    static member Model() = Arb.fromGen (model (Gen.choose (1, 6)))

    static member Case() =
        Arb.fromGen (
            gen {
                let! model = model (Gen.choose (2, 6))
                let! exit = Gen.choose (1, model.Config.Layers - 1)
                let! draft = Gen.choose (1, 8)
                let! length = Gen.choose (1, 12)
                let! prompt = Gen.arrayOfLength length (Gen.choose (0, 23))

                return { Model = model; Exit = exit; Draft = draft; Prompt = prompt }
            }
        )

/// The FsCheck settings of the torch suites.
let settings count = {
    Expecto.FsCheckConfig.defaultConfig with
        maxTest = count
        arbitrary = [ typeof<Arbitraries> ]
}

let options strategy maxNewTokens = { GenerationOptions.greedy strategy maxNewTokens with Seed = 1L }

let exit layers layer = ExitLayer.TryCreate(layers, layer) |> Check.getOrRaise

/// Texts with a rhythm, so that there is something to learn.
let rhythm = [| for i in 0..60 -> [| for j in 0..11 -> (i + 3 * j) % 24 |] |]

/// A parameter's gradient; zeros where nothing reached it.
let gradientOf (tensor: TorchSharp.torch.Tensor) : float[] =
    if isNull tensor.grad then
        Array.zeroCreate (int (tensor.numel ()))
    else
        Tensors.toFloats tensor.grad

let complete weights options prompt = Generation.complete weights None options prompt |> Check.getOrRaise
