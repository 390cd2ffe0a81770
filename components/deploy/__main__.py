from components import deploy
from regraft import step

if __name__ == "__main__":
    step.main("deploy", inputs=deploy.inputs, work=deploy.work, verify=deploy.verify)
